"""Judges: who says which candidate is better."""

from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.judges.claims import Claims
from parallax.preference.judges.clip_calibrated import ClipCalibrated
from parallax.preference.judges.self_critic import SelfCritic

__all__ = ["ByConstruction", "Claims", "ClipCalibrated", "SelfCritic"]
