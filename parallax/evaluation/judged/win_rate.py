"""Which of two answers is better, by a judge that sees them in both orders (the comparison behind SeVa's figure 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallax.evaluation.accuracy import plain_text
from parallax.evaluation.agreement import wilson
from parallax.evaluation.evaluation import Evaluation
from parallax.evaluation.files.reading import fill
from parallax.evaluation.judged.client import JudgeClient, JudgePrompt
from parallax.evaluation.over_seeds import sign_test, wins_of


@dataclass(frozen=True, slots=True)
class WinRate:
    """`share` is wins of the second over wins and losses, with Wilson's 95 % interval; `p` of the sign test.

    `same` answers were equal and not judged; `failed` comparisons got no verdict; neither counts.
    """

    wins: int
    losses: int
    ties: int
    same: int
    failed: int
    share: float | None
    low: float
    high: float
    p: float | None

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def win_rate(first: Evaluation, second: Evaluation, judge: JudgeClient, instructions: str) -> WinRate:
    """Compare the answers of two evaluations to the same questions.

    Args:
        instructions: with {question}, {truth}, {first} and {second}; the verdict is `first`, `second` or `tie`.
    """
    other = {item.key: item for item in second.items}
    pairs = [(item, other[item.key]) for item in first.items if item.key in other]
    texts = [(one, plain_text(one.answer), plain_text(two.answer)) for one, two in pairs]
    judged = [(item, a, b) for item, a, b in texts if a != b]
    asks = []
    for item, a, b in judged:
        about = {"question": item.question, "truth": item.truth or "not known"}
        asks += [
            JudgePrompt(fill(instructions, **about, first=x, second=y), read_preference) for x, y in ((a, b), (b, a))
        ]
    said = [verdict.value for verdict in judge.verdicts(asks)]
    both = [(one, _turned(two)) for one, two in zip(said[::2], said[1::2], strict=True)]
    wins, losses, ties, failed = wins_of(both)
    low, high = wilson(wins, wins + losses)
    share = wins / (wins + losses) if wins + losses else None
    return WinRate(
        wins, losses, ties, len(texts) - len(judged), failed, share, low, high, sign_test(wins, losses, ties).p
    )


def read_preference(text: str) -> str | None:
    """The one of `first`, `second`, `tie` that the verdict's last line names; None for none or several."""
    lines: Sequence[str] = [line for line in text.strip().lower().splitlines() if line.strip()]
    words = set(re.findall(r"\b(first|second|tie)\b", lines[-1])) if lines else set()
    return words.pop() if len(words) == 1 else None


def _turned(said: str | None) -> str | None:
    return {"first": "second", "second": "first"}.get(said, said) if said is not None else None
