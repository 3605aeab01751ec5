"""ComfyUI's diffusion models in the worker: the only part of the engines that imports `comfy`."""
