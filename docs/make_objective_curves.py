"""Draws docs/images/objectives.png: every objective and its gradient against the margin. `python -m docs.make_objective_curves`.

A pair of two answers of 20 tokens each, log-probs of −20 under the reference; the policy's log-ratios are z/2 for the chosen and
−z/2 for the rejected answer, and those of further columns are 0. What is not said below is as in conf/.
"""

from __future__ import annotations

from pathlib import Path

import torch

from augment.occlusion import Crop
from lightning_modules import objectives as o
from parallax.reports.plots import PALETTE, panels, save
from tests.parts import part

OUT = Path(__file__).parent / "images" / "objectives.png"
VIEW = part(Crop)
SHOWN: dict[str, o.Objective] = {
    "dpo": part(o.DPO),
    "dpo, ε = 0.2": part(o.DPO, label_smoothing=0.2),
    "multi_negative, K = 3": part(o.MultiNegative),
    "robust": o.Robust(0.1, 0.1),
    "ipo": part(o.IPO),
    "hinge": part(o.Hinge),
    "exo": o.EXO(0.1, 0.001),
    "discopop": o.DiscoPOP(0.1, 0.05),
    "dpo_per_token": o.LengthNormalised(2.0),
    "f_divergence, forward KL": part(o.FDivergence, "forward_kl"),
    "f_divergence, Jensen-Shannon": part(o.FDivergence, "jensen_shannon"),
    "f_divergence, α = 0.5": part(o.FDivergence, "alpha"),
    "nca": part(o.NCA),
    "bco": part(o.BCO),
    "sppo": part(o.SPPO),
    "apo_zero": part(o.APOZero),
    "apo_down": part(o.APODown),
    "cpo": o.CPO(0.1, 1.0),
    "simpo": o.SimPO(2.0, 1.0),
    "orpo": o.ORPO(0.1),
    "stic": part(o.Stic),
    "nll": part(o.NLL),
    "mpo": o.Weighted([(0.8, part(o.DPO)), (0.2, part(o.BCO)), (1.0, part(o.NLL))]),
    "ld_dpo": o.LDDPO(0.1, 0.5),
    "ddpo": part(o.DDPO),
    "mdpo": part(o.MDPO, VIEW),
    "image_term": part(o.ImageTerm, VIEW),
    "chip": part(o.CHiP, VIEW),
    "symmpo": o.SymMPO(0.1, 0.5, 1.0, 1e-4),
    "povid": part(o.Povid),
}


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
    with panels(len(SHOWN), across=6, size=(2.6, 2.1)) as (whole, axes):
        for axis, (name, objective) in zip(axes, SHOWN.items(), strict=True):
            loss, gradient = curves(name, objective, margins)
            axis.plot(margins, loss, color=PALETTE[0])
            axis.set_title(name, fontsize=9)
            other = axis.twinx()
            other.plot(margins, gradient, color=PALETTE[1], linestyle="--")
            other.grid(False)
            other.spines["right"].set_visible(True)
            for each, colour in ((axis, PALETTE[0]), (other, PALETTE[1])):
                each.tick_params(labelsize=7)
                each.tick_params(axis="y", labelcolor=colour)
        whole.suptitle(
            "loss (line, left) and its derivative by the margin (dashed, right) against z = ρ_w − ρ_l", fontsize=11
        )
        print(f"wrote {save(whole, OUT)}")


if __name__ == "__main__":
    main()
