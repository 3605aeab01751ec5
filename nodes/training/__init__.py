"""What the training nodes share: run setup, monitor, outputs, published files."""
