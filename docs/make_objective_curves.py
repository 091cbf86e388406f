"""Draws docs/images/objectives.png: every objective and its gradient against the margin. `python docs/make_objective_curves.py`.

A pair of two answers of 20 tokens each, log-probs of −20 under the reference; the policy's log-ratios are z/2 for the chosen and
−z/2 for the rejected answer, and those of further columns are 0. β is each class's own default.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

from augment.occlusion import Crop
from lightning_modules import objectives as o

OUT = Path(__file__).parent / "images" / "objectives.png"
VIEW = Crop()
SHOWN: dict[str, o.Objective] = {
    "dpo": o.DPO(), "dpo, ε = 0.2": o.DPO(label_smoothing=0.2), "multi_negative, K = 3": o.MultiNegative(), "robust": o.Robust(),
    "ipo": o.IPO(), "hinge": o.Hinge(), "exo": o.EXO(), "discopop": o.DiscoPOP(), "dpo_per_token": o.LengthNormalised(),
    "f_divergence, forward KL": o.FDivergence("forward_kl"), "f_divergence, Jensen-Shannon": o.FDivergence("jensen_shannon"),
    "f_divergence, α = 0.5": o.FDivergence("alpha"), "nca": o.NCA(), "bco": o.BCO(), "sppo": o.SPPO(), "apo_zero": o.APOZero(),
    "apo_down": o.APODown(), "cpo": o.CPO(), "simpo": o.SimPO(), "orpo": o.ORPO(), "stic": o.Stic(), "nll": o.NLL(),
    "mpo": o.Weighted([(0.8, o.DPO()), (0.2, o.BCO()), (1.0, o.NLL())]), "ld_dpo": o.LDDPO(), "ddpo": o.DDPO(),
    "mdpo": o.MDPO(VIEW), "image_term": o.ImageTerm(VIEW), "chip": o.CHiP(VIEW), "symmpo": o.SymMPO(), "povid": o.Povid(),
}  # fmt: skip


def curves(name: str, objective: o.Objective, margins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and its derivative by the margin. Shapes: (points,), (points,)."""
    z = margins.clone().requires_grad_()
    rejected = 3 if name.startswith("multi") else 1
    further = 1 if objective.looks_at_noise else len(objective.looks)
    columns = [z / 2, *[-z / 2] * rejected, *[torch.zeros_like(z)] * further]
    ratios = torch.stack(columns, dim=1)
    reference = torch.full_like(ratios, -20.0)
    loss = objective(reference + ratios, reference, torch.full(ratios.shape, 20)).loss
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    return loss.detach(), gradient


def main() -> None:
    margins = torch.linspace(-30, 30, 301, dtype=torch.float64)
    across = 6
    figure, panels = plt.subplots(-(-len(SHOWN) // across), across, figsize=(15, 11), constrained_layout=True)
    for panel in panels.flat[len(SHOWN) :]:
        panel.axis("off")
    for panel, (name, objective) in zip(panels.flat, SHOWN.items(), strict=False):
        loss, gradient = curves(name, objective, margins)
        panel.plot(margins, loss, color="#2166ac")
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7, axis="y", labelcolor="#2166ac")
        panel.tick_params(labelsize=7, axis="x")
        panel.axvline(0, color="#bbbbbb", linewidth=0.6)
        other = panel.twinx()
        other.plot(margins, gradient, color="#b2182b", linestyle="--")
        other.tick_params(labelsize=7, labelcolor="#b2182b")
    figure.suptitle(
        "loss (blue, left) and its derivative by the margin (red, dashed, right) against z = ρ_w − ρ_l", fontsize=11
    )
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=80)
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
