"""Score models as the papers did, on data in the layouts of its owners."""
