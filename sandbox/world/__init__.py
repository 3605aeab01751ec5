"""The drawn world: scenes of one to three things whose truth (kinds, colours, boxes) is known."""
