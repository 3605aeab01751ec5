"""Faults that users reported, replayed."""
