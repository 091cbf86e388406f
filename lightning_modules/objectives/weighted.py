"""A weighted sum of objectives, as `loss_type=[…]` with `loss_weights=[…]` is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

from annotated_types import Len
from torch import Tensor

from lightning_modules.objectives.base import Objective


class Term(TypedDict):
    """One term of a weighted sum, as it comes from a YAML file."""

    weight: float
    objective: Objective


class Weighted(Objective):
    """Σ_i w_i · objective_i. Rewards are shown with the β of the first objective that has one.

    Args:
        terms: pairs (weight, objective), or mappings {"weight": …, "objective": …} as they come from a YAML file.
    """

    def __init__(self, terms: Annotated[Sequence[tuple[float, Objective] | Term], Len(1)]) -> None:
        pairs = [(term["weight"], term["objective"]) if isinstance(term, dict) else term for term in terms]
        self.terms = [(float(weight), objective) for weight, objective in pairs]
        self.needs_reference = any(objective.needs_reference for _, objective in self.terms)
        self.beta = next((objective.beta for _, objective in self.terms if objective.beta is not None), None)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total, metrics = policy.new_zeros(policy.shape[0]), {}
        for index, (weight, objective) in enumerate(self.terms):
            loss = objective(policy, reference, lengths).loss
            total = total + weight * loss
            metrics[f"loss/{index}_{type(objective).__name__.lower()}"] = loss
        return total, metrics
