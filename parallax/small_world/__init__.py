"""Models of the built-in world: how they are made."""
