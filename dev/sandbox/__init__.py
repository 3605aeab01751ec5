"""How the sandbox's models are trained and its images drawn."""
