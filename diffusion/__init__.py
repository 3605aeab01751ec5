"""Engine: load Stable Diffusion models, guide and sample them, keep prior pictures.

It knows torch and diffusers, and nothing of ComfyUI.
"""
