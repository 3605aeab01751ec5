"""Kosmos-2: load, caption, ground, embed, explain. Does not import ComfyUI."""
