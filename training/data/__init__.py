"""Training data: images, captions, masks, latents, and what each step samples of them."""
