"""A run: its folder, checkpoints, events, worker process and results."""
