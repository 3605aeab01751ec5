"""Used by all rooms: errors, atomic files, batching, images, memory and model folders."""
