"""A run that teaches a Kosmos-2 to write captions in another language, or in another manner."""
