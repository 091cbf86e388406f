"""Proposers: where candidate answers come from."""

from parallax.preference.proposers.by_view import ByView
from parallax.preference.proposers.given import Given

__all__ = ["ByView", "Given"]
