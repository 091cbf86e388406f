"""A weighted sum of objectives, as `loss_type=[…]` with `loss_weights=[…]` is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from torch import Tensor

from lightning_modules.objectives.base import Objective


class Weighted(Objective):
    """Σ_i w_i · objective_i. Rewards are shown with the β of the first objective that has one.

    Args:
        terms: pairs (weight, objective), or mappings {"weight": …, "objective": …} as they come from a YAML file.
    """

    def __init__(self, terms: Sequence[tuple[float, Objective] | Sequence[Any] | Mapping[str, Any]]) -> None:
        if not terms:
            raise ValueError("loss.terms is empty: name at least one {weight, objective}")
        self.terms = [_term(term) for term in terms]
        self.needs_reference = any(objective.needs_reference for _, objective in self.terms)
        self.beta = next((objective.beta for _, objective in self.terms if objective.beta is not None), None)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total, metrics = policy.new_zeros(policy.shape[0]), {}
        for index, (weight, objective) in enumerate(self.terms):
            loss = objective(policy, reference, lengths).loss
            total = total + weight * loss
            metrics[f"loss/{index}_{type(objective).__name__.lower()}"] = loss
        return total, metrics


def _term(term: Any) -> tuple[float, Objective]:
    weight, objective = (term["weight"], term["objective"]) if isinstance(term, Mapping) else term
    if not isinstance(objective, Objective):
        raise TypeError(f"loss.terms holds {objective!r}, which is no objective; give each term a `_target_`")
    if not (isinstance(weight, int | float) and isfinite(weight)):
        raise ValueError(f"loss.terms has weight {weight!r}; a weight is a finite number")
    return float(weight), objective
