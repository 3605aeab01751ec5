"""The diffusion model in training behind an interface: diffusers or ComfyUI implement it."""
