"""Judges: who says which candidate is better."""

from parallax.preference.judges.by_construction import ByConstruction

__all__ = ["ByConstruction"]
