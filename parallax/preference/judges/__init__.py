"""Judges: who says which candidate is better."""

from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.judges.claims import Claims
from parallax.preference.judges.clip_calibrated import ClipCalibrated
from parallax.preference.judges.detector import Detector
from parallax.preference.judges.implicit_reward import ImplicitReward
from parallax.preference.judges.outside import Outside
from parallax.preference.judges.self_critic import SelfCritic
from parallax.preference.judges.verifier import Verifier

__all__ = [
    "ByConstruction", "Claims", "ClipCalibrated", "Detector", "ImplicitReward", "Outside", "SelfCritic", "Verifier",
]  # fmt: skip
