"""The DreamBooth engine: one run is a process, a directory and an event stream."""
