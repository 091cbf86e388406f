"""Models of the built-in world and toy checkpoints of all families: how they are made."""
