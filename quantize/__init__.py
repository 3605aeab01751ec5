"""Engine: make models smaller by torchao, and measure what that costs. Never knows ComfyUI."""
