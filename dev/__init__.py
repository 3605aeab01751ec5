"""The developers' room: demo, benchmarks, training and scores of the sandbox's models."""
