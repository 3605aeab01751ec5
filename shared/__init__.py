"""Used by all packages: errors, atomic files, batching, images, memory and model folders."""
