"""Objectives: (policy log-probs, reference log-probs, lengths) → one loss per pair. Pure functions of tensors."""

from lightning_modules.objectives.base import Objective, ObjectiveOutput
from lightning_modules.objectives.likelihood import NLL, Stic
from lightning_modules.objectives.povid import Povid
from lightning_modules.objectives.preference import DPO, IPO, Hinge, MultiNegative, Robust
from lightning_modules.objectives.weighted import Weighted

__all__ = [
    "DPO", "IPO", "NLL", "Hinge", "MultiNegative", "Objective", "ObjectiveOutput", "Povid", "Robust", "Stic", "Weighted",
]  # fmt: skip
