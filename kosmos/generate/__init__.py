"""Text under images: captions, answers, phrase grounding, region descriptions."""
