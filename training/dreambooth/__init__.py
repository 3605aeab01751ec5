"""The DreamBooth objective: loss, forward process, prior preservation, LoRA, textual inversion."""
