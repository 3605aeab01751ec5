"""Measurements next to what users would run instead, in one process."""
