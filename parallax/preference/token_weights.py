"""Weights of response tokens: a pure function of a pair's token ids, the same for policy and reference.

With weights w the log-prob of a response is Σ_t w_t log π(y_t | …). Weights of 1 everywhere give the plain log-prob, to the last
bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

Ids = Sequence[int]


class TokenWeights(ABC):
    """How much each token of a pair's responses counts."""

    @abstractmethod
    def weights(self, responses: Sequence[Ids]) -> list[list[float]]:
        """A weight for every token of every response, chosen first."""

    def settings(self) -> dict[str, Any]:
        """What the weights depend on beside the tokens; names kept reference log-probs."""
        return {"token_weights": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Tail(TokenWeights):
    """LD-DPO (arXiv 2409.06411): tokens beyond the shortest response's length count `weight`, 0 to 1."""

    weight: float

    def weights(self, responses: Sequence[Ids]) -> list[list[float]]:
        common = min(len(ids) for ids in responses)
        return [[1.0] * common + [self.weight] * (len(ids) - common) for ids in responses]


@dataclass(frozen=True)
class ChangedSpans(TokenWeights):
    """Dense DPO (RLHF-V, arXiv 2312.00849, section 3.2): tokens in which the two responses differ count `weight`, others 1.

    Attributes:
        weight: γ, of the changed tokens.
        min_match: runs of equal tokens shorter than this do not interrupt a change.
        both_sides: a change counts only where both responses have tokens of their own there, as in the authors' code; else
            insertions and deletions count too.
        normalise: divide by the sum of a response's weights, as in the paper; log-ratios are then per token.
    """

    weight: float
    min_match: int = 3
    both_sides: bool = True
    normalise: bool = False

    def weights(self, responses: Sequence[Ids]) -> list[list[float]]:
        if len(responses) != 2:
            raise ValueError(
                f"changed spans are those between one chosen and one rejected answer, and here are {len(responses) - 1} rejected "
                "ones; use pairs.num_negatives=1"
            )
        one, other = (list(ids) for ids in responses)
        result = [[1.0] * len(one), [1.0] * len(other)]
        blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
        ends = [(block.a, block.b, block.size) for block in blocks if block.size >= self.min_match]
        a = b = 0
        for start_a, start_b, size in [*ends, (len(one), len(other), 0)]:
            spans = (range(a, start_a), range(b, start_b))
            if all(spans) or (any(spans) and not self.both_sides):
                for side, span in zip(result, spans, strict=True):
                    for place in span:
                        side[place] = self.weight
            a, b = start_a + size, start_b + size
        if self.normalise:
            return [[weight / sum(side) for weight in side] for side in result]
        return result
