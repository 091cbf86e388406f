"""DPO with weights of tokens: long answers' tails, or the spans in which the two answers differ."""

from __future__ import annotations

from typing import ClassVar

from lightning_modules.objectives.preference import MultiNegative
from parallax.preference.token_weights import ChangedSpans, Tail
from parallax.settings.ranges import Count, Positive, Share


class LDDPO(MultiNegative):
    """LD-DPO (arXiv 2409.06411): tokens beyond the shortest answer's length count `alpha`, in policy and reference alike.

    Args:
        beta: strength of the pull to the reference, above 0.
        alpha: 0 (answers are compared up to the length of the shortest one) to 1 (DPO).
    """

    def __init__(self, beta: Positive, alpha: Share) -> None:
        super().__init__(beta)
        self.token_weights = Tail(float(alpha))


class DDPO(MultiNegative):
    """Dense DPO (RLHF-V, arXiv 2312.00849, section 3.2): tokens in which the two answers differ count `gamma`, the others 1.

    Args:
        beta: strength of the pull to the reference, above 0.
        gamma: above 0; 5 in the paper, 1 is DPO.
        min_match: runs of equal tokens shorter than this belong to the change around them, 1 or more.
        both_sides: only changes with tokens on both sides count, as in the authors' code; else insertions and deletions too.
        normalise: divide each log-prob by the sum of its weights, as in the paper; β is then to be larger.
    """

    pairs_only: ClassVar[bool] = True

    def __init__(
        self,
        beta: Positive,
        gamma: Positive,
        min_match: Count,
        both_sides: bool,
        normalise: bool = False,
    ) -> None:
        super().__init__(beta)
        self.token_weights = ChangedSpans(float(gamma), min_match, both_sides, normalise)
