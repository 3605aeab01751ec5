"""Inspect Kosmos-2: attention, relevance, patches, embeddings, likelihood scores."""
