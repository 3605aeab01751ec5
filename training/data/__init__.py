"""What a run learns from: images, captions, masks and latents, and the order of steps."""
