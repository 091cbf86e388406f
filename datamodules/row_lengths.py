"""How many tokens each pair or dialogue takes in a forward pass, and what share of what the model computes is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.further_columns import FurtherColumns
from parallax.models.encoding.token_counts import TokenCounts
from parallax.models.scoring.log_probs import separate_sequences
from parallax.records import PreferencePair, Response

if TYPE_CHECKING:
    from parallax.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Padding:
    """What some forward passes hold together."""

    tokens: int  # without padding
    computed: int  # with padding: rows times the longest row, summed over passes
    passes: int
    smallest: int  # items of the smallest pass
    largest: int  # items of the largest pass
    longest: int  # tokens of the largest pass, padding included

    @property
    def share(self) -> float:
        """Padding as a share of all that is computed, 0 to 1."""
        return 1 - self.tokens / self.computed if self.computed else 0.0

    def line(self, items: str = "pairs") -> str:
        """One line for the log."""
        each = str(self.largest) if self.smallest == self.largest else f"{self.smallest}-{self.largest}"
        return f"padding {self.share:.1%} of tokens in micro-batches of at most {self.longest:,} tokens; {each} {items} each"

    def as_data(self) -> dict[str, Any]:
        """For fit.json."""
        return {
            "share": round(self.share, 4), "tokens": self.tokens, "micro_batches": self.passes,
            "most_tokens": self.longest, "smallest": self.smallest, "largest": self.largest,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class RowLengths:
    """Tokens of N items (pairs or dialogues), image tokens included.

    Args:
        widths: the longest row of each item. Shape: (N,), int64.
        tokens: of all rows of each item, without padding. Shape: (N,), int64.
        rows: how many rows an item takes.
    """

    widths: np.ndarray
    tokens: np.ndarray
    rows: int = 1

    def __post_init__(self) -> None:
        assert self.widths.shape == self.tokens.shape and self.widths.ndim == 1, "one width and one count per item"
        assert len(self.widths) == 0 or int(self.widths.min()) > 0, "an item has one token at least"

    def __len__(self) -> int:
        return len(self.widths)

    def padding(self, passes: Sequence[Sequence[int]]) -> Padding:
        """Of forward passes that hold these places."""
        sizes = [len(places) for places in passes]
        computed = [self.rows * len(places) * int(self.widths[list(places)].max()) for places in passes]
        tokens = sum(int(self.tokens[list(places)].sum()) for places in passes)
        return Padding(tokens, sum(computed), len(passes), min(sizes), max(sizes), max(computed))


def lengths_in_rows(
    prompts: Sequence[int], responses: np.ndarray, *, shared: bool, looks: Sequence[np.ndarray] = ()
) -> RowLengths:
    """From token counts to rows: one row of prompt and all responses where they share it, else a row per response.

    `looks` are tokens of answers beside further pictures, an array for each picture; the prompt is taken to be as long there.
    Each has rows of its own, which are counted as a part of the pair's.

    Shapes: prompts (N,), responses (N, 1 + K), each of looks (N, answers beside that picture).
    """
    before, after = np.asarray(prompts, dtype=np.int64), np.asarray(responses, dtype=np.int64)
    assert after.ndim == 2 and len(before) == len(after), "one prompt and 1 + K responses for each pair"
    behind = [after, *(np.asarray(look, dtype=np.int64) for look in looks)]
    if shared:
        whole = sum((before + answers.sum(axis=1) for answers in behind), np.zeros_like(before))
        return RowLengths(whole, whole)
    every = np.concatenate(behind, axis=1)
    return RowLengths(before + every.max(axis=1), every.shape[1] * before + every.sum(axis=1), every.shape[1])


def lengths_of_pairs(
    policy: Policy, pairs: Sequence[PreferencePair], further: FurtherColumns | None = None
) -> RowLengths:
    """Lengths of pairs as `policy` lays them out, with what an objective looks at further. No image is decoded."""
    counts = TokenCounts(policy.encoder)
    prompts = counts.prompts([pair.conversation for pair in pairs])

    def counted(responses: Sequence[Sequence[Response]]) -> np.ndarray:
        flat = counts.responses([response for each in responses for response in each])
        return np.reshape(flat, (len(responses), len(responses[0]) if responses else 1))

    own = counted([pair.responses for pair in pairs])
    groups = further.groups if further is not None and pairs else []
    looks = [
        counted([further.shown(pairs, at, group).responses for at in range(len(pairs))]) for group in groups if further
    ]
    return lengths_in_rows(prompts, own, shared=shares_prompt(policy), looks=looks)


def shares_prompt(policy: Policy) -> bool:
    """Whether the policy reads the prompt once for all responses."""
    return policy.layout is not separate_sequences
