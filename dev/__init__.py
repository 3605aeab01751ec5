"""Commands for developers: demo, benchmarks, training and scores of the sandbox's models."""
