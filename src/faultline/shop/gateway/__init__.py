"""The gateway: the one way in, and the last who may wait."""
