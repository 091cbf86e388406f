"""Proposers: where candidate answers come from."""

from parallax.preference.proposers.by_prompt import ByPrompt
from parallax.preference.proposers.by_view import ByView
from parallax.preference.proposers.edited import GroundTruthAgainstEdited
from parallax.preference.proposers.ground_truth import Given, GroundTruth
from parallax.preference.proposers.sampled import Sampled
from parallax.preference.proposers.sentence_tree import SentenceTree

__all__ = ["ByPrompt", "ByView", "Given", "GroundTruth", "GroundTruthAgainstEdited", "Sampled", "SentenceTree"]
