"""Load, sample and save Stable Diffusion models, and generate class images; without ComfyUI."""
