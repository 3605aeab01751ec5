"""What all rooms use: errors, atomic files, batching, peak memory, model folders."""
