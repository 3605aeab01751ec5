"""Optimizers, learning rate schedules, sharded optimizer states, averaged weights."""
