"""Draw boxes, labels, captions, heat maps, matrices, contact sheets and plots."""
