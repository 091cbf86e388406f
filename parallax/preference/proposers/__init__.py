"""Proposers: where candidate answers come from."""

from parallax.preference.proposers.by_view import ByView
from parallax.preference.proposers.given import Given
from parallax.preference.proposers.sampled import Sampled
from parallax.preference.proposers.sentence_tree import SentenceTree

__all__ = ["ByView", "Given", "Sampled", "SentenceTree"]
