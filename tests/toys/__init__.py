"""Toy checkpoints of every image-text-to-text family."""
