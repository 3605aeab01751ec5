"""Generate images: prompts, guidance, schedulers, the denoising loop."""
