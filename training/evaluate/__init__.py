"""Score the checkpoints of a run."""
