"""Load Stable Diffusion from a checkpoint file, a diffusers folder or the hub."""
