"""The drawn world: scenes of one to three things with known kinds, colours and boxes."""
