"""Engine for Kosmos-2: load, preprocess, describe, ground and draw. It never imports ComfyUI."""
