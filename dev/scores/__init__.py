"""How well the sandbox's models do, on scenes and prompts that no training drew."""
