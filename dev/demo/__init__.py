"""The one-command walk through the pack, on a real ComfyUI."""
