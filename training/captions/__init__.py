"""Fine-tuning Kosmos-2 for captions in another language or style."""
