"""Objectives: (policy log-probs, reference log-probs, lengths) → one loss per pair. Pure functions of tensors."""

from lightning_modules.objectives.absolute import BCO, NCA, SPPO, APODown, APOZero
from lightning_modules.objectives.base import DPO, MultiNegative, Objective, ObjectiveOutput
from lightning_modules.objectives.image_terms import MDPO, Anchor, CHiP, ImageTerm, SymMPO
from lightning_modules.objectives.likelihood import NLL, Stic
from lightning_modules.objectives.margins import EXO, DiscoPOP, FDivergence, LengthNormalised
from lightning_modules.objectives.preference import DDPO, IPO, LDDPO, Hinge, Povid, Robust
from lightning_modules.objectives.reference_free import CPO, ORPO, SimPO
from lightning_modules.objectives.weighted import Weighted

__all__ = [
    "BCO", "CPO", "DDPO", "DPO", "EXO", "IPO", "LDDPO", "MDPO", "NCA", "NLL", "ORPO", "SPPO", "APODown", "APOZero", "Anchor",
    "CHiP", "DiscoPOP", "FDivergence", "Hinge", "ImageTerm", "LengthNormalised", "MultiNegative", "Objective", "ObjectiveOutput",
    "Povid", "Robust", "SimPO", "Stic", "SymMPO", "Weighted",
]  # fmt: skip
