"""A weighted sum of objectives, as `loss_type=[…]` with `loss_weights=[…]` is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NotRequired, TypedDict

from annotated_types import Len
from torch import Tensor

from lightning_modules.objectives.base import Losses, Objective


class Term(TypedDict):
    """One term of a weighted sum, as it comes from a YAML file."""

    weight: float
    objective: Objective
    kinds: NotRequired[Sequence[str]]


class Weighted(Objective):
    """Σ_i w_i · objective_i. Rewards are shown with the β of the first objective that has one.

    Looks of the terms are united; each term gets the pair's own columns and those of its looks.

    Args:
        terms: pairs (weight, objective), or mappings {"weight": …, "objective": …} as they come from a YAML file. With `kinds` a
            term is 0 for pairs of other kinds; its mean stays over all pairs, as in SENA (arXiv 2412.15650).
    """

    def __init__(self, terms: Annotated[Sequence[tuple[float, Objective] | Term], Len(1)]) -> None:
        self.kinds = [frozenset(term.get("kinds", ())) if isinstance(term, dict) else frozenset() for term in terms]
        pairs = [(term["weight"], term["objective"]) if isinstance(term, dict) else term for term in terms]
        self.terms = [(float(weight), objective) for weight, objective in pairs]
        objectives = [objective for _, objective in self.terms]
        self.needs_reference = any(objective.needs_reference for objective in objectives)
        self.beta = next((objective.beta for objective in objectives if objective.beta is not None), None)
        self.looks = tuple(dict.fromkeys(look for objective in objectives for look in objective.looks))
        weightings = {objective.token_weights for objective in objectives}
        if len(weightings) > 1:
            raise ValueError(
                "the terms of loss.terms weigh tokens differently, and an answer is scored once for all of them: give all terms "
                "the same token weights (loss=ddpo, ld_dpo, chip), or none"
            )
        (self.token_weights,) = weightings

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        return self.losses_by_kind(policy, reference, lengths, [])

    def losses_by_kind(self, policy: Tensor, reference: Tensor | None, lengths: Tensor, kinds: Sequence[str]) -> Losses:
        total, metrics = policy.new_zeros(policy.shape[0]), {}
        own = list(range(policy.shape[1] - len(self.looks)))
        for index, (weight, objective) in enumerate(self.terms):
            columns = own + [len(own) + self.looks.index(look) for look in objective.looks]
            seen = None if reference is None else reference[:, columns]
            output = objective(policy[:, columns], seen, lengths[:, columns], kinds)
            loss = output.loss
            if own_kinds := self.kinds[index]:
                if len(kinds) != len(policy):
                    raise ValueError(
                        f"a term of loss.terms is for pairs of kind {', '.join(sorted(own_kinds))}, and the batch does not say "
                        "of which kinds its pairs are"
                    )
                loss = loss * policy.new_tensor([kind in own_kinds for kind in kinds])
            total = total + weight * loss
            metrics[f"loss/{index}_{type(objective).__name__.lower()}"] = loss
            metrics |= {f"{index}/{name}": output.metrics[name] for name in objective.kept if name in output.metrics}
            metrics |= {name: output.metrics[name] for name in ("image_margin",) if name in output.metrics}
        return total, metrics

    @property
    def kept(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"{index}/{name}" for index, (_, term) in enumerate(self.terms) for name in term.kept)

    def after_step(self, means: Mapping[str, float]) -> None:
        for index, (_, objective) in enumerate(self.terms):
            objective.after_step({name: means[f"{index}/{name}"] for name in objective.kept})

    def state(self) -> dict[str, float]:
        return {f"{i}/{name}": value for i, (_, term) in enumerate(self.terms) for name, value in term.state().items()}

    def load_state(self, state: Mapping[str, float]) -> None:
        for index, (_, objective) in enumerate(self.terms):
            own = {name.split("/", 1)[1]: value for name, value in state.items() if name.startswith(f"{index}/")}
            objective.load_state(own)
