"""Parallax: vision-language models that align themselves with preference pairs they make on their own."""

__version__ = "0.1.0"
