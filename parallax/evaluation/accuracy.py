"""Answer accuracy, overall and per question kind. What counts as the same answer is a function of the data's own."""

from __future__ import annotations

import re
from collections.abc import Callable

SameAnswer = Callable[[str, str, str], bool]  # (kind, prediction, truth) -> whether they say the same


def same_text(kind: str, prediction: str, truth: str) -> bool:
    """Equal text, ignoring case, blanks and a closing full stop, for every kind: for data without rules of its own."""
    return _plain(prediction) == _plain(truth)


def accuracy_scores(kind: str, correct: bool) -> dict[str, tuple[float, float]]:
    """One answer as (numerator, denominator) of `accuracy` and, where the question has a kind, `accuracy/<kind>`."""
    pair = (float(correct), 1.0)
    return {"accuracy": pair, f"accuracy/{kind}": pair} if kind else {"accuracy": pair}


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip().lower()


# <s>, </s>, <unk>, <pad>, <eos>, <bos>, <|im_end|>, <|endoftext|>, <|eot_id|>, <end_of_turn>, <image>
_SPECIAL = re.compile(r"<\|[^<>|]*\|>|</?(?:s|unk|pad|eos|bos|image|start_of_turn|end_of_turn|end_of_utterance)>")


def plain_text(text: str) -> str:
    """The answer without special tokens and without blanks around it."""
    return _SPECIAL.sub("", text).strip()
