"""Engine for models that leave PyTorch: ONNX, LiteRT and Core ML. It never imports ComfyUI."""
