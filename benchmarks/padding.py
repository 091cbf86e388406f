"""How much of what a training step computes is padding: fixed micro-batches in the order of the data, and packed by tokens.

    python benchmarks/padding.py
    python benchmarks/padding.py --processes 8 --layout separate

Lengths are drawn from distributions like those of real data (`length_distributions.py`); nothing is trained. "as they come"
cuts each step into micro-batches of a fixed number of pairs in the order of the data, as most trainers do. "packed" is the
default of `trainer.micro_batch_tokens`; "grouped" is the same with `trainer.group_by_length=true`. All three have the same
largest forward pass.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names

from benchmarks.length_distributions import DISTRIBUTIONS
from benchmarks.measure import parser, table, write_json
from datamodules.row_lengths import Padding, lengths_in_rows
from datamodules.steps import StepPlan


def main() -> None:
    """One table of shares of padding and numbers of forward passes, one JSON file."""
    options = parser(__file__, (__doc__ or "").splitlines()[0])
    options.add_argument("--pairs", type=int, default=6400, help="pairs of each distribution")
    options.add_argument("--negatives", type=int, default=1, help="K, rejected answers per pair")
    options.add_argument("--micro", type=int, default=4, help="trainer.micro_batch_size")
    options.add_argument("--processes", type=int, default=1, help="processes that share a step")
    options.add_argument("--layout", choices=["shared", "separate"], default="shared", help="model.layout")
    given = options.parse_args()
    rows, kept = [], []
    for name, step in product(DISTRIBUTIONS, (128, 16)):
        prompts, responses = DISTRIBUTIONS[name](given.pairs, given.negatives, np.random.default_rng(0))
        lengths = lengths_in_rows(prompts, responses, shared=given.layout == "shared")
        budget = given.micro * lengths.rows * int(lengths.widths.max())
        plan = StepPlan(given.pairs, step, given.micro, lengths=lengths, world_size=given.processes)
        packed = StepPlan(
            given.pairs, step, given.micro, lengths=lengths, micro_batch_tokens=budget, world_size=given.processes
        )
        grouped = StepPlan(
            given.pairs, step, given.micro, lengths=lengths, micro_batch_tokens=budget, group_by_length=True,
            world_size=given.processes,
        )  # fmt: skip
        found = {"as they come": _as_they_come(plan), "packed": packed.padding(), "grouped": grouped.padding()}
        shares = {side: padding.share for side, padding in found.items() if padding is not None}
        passes = {side: padding.passes for side, padding in found.items() if padding is not None}
        rows.append([name, step, *[f"{share:.1%}" for share in shares.values()], *passes.values()])
        kept.append({"lengths": name, "pairs_per_step": step, "padding": shares, "passes": passes})
    sides = ["as they come", "packed", "grouped"]
    print(
        table(["lengths", "pairs per step", *[f"padding, {s}" for s in sides], *[f"passes, {s}" for s in sides]], rows)
    )
    settings = {key: getattr(given, key) for key in ("pairs", "negatives", "micro", "processes", "layout")}
    print(f"numbers in {write_json(given.json, {'settings': settings, 'rows': kept})}")


def _as_they_come(plan: StepPlan) -> Padding:
    """Each process takes every so-manyth pair of a step and cuts its share into fixed numbers."""
    assert plan.lengths is not None
    order, passes = plan.order(0).tolist(), []
    for start in range(0, len(order), plan.batch_size):
        for rank in range(plan.world_size):
            share = order[start : start + plan.batch_size][rank :: plan.world_size]
            passes += [share[at : at + plan.micro_batch_size] for at in range(0, len(share), plan.micro_batch_size)]
    return plan.lengths.padding(passes)


if __name__ == "__main__":
    main()
