"""Where a sentence ends, for any tokenizer: a token whose text ends with . ! or ?, unless the point belongs to something else.

An abbreviation, an initial and the number of a list item go on. A point after a digit is open until the next token is known:
`3.` goes on if a digit follows and ends otherwise.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor

from parallax.models.foreign import Tokenizer

Ending = Literal["end", "open", "number"]  # number: an end, unless the next token starts with a digit

MARKS = ".!?…。！？"
CLOSERS = "\"'”’»)]}*_"
ABBREVIATIONS = {
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "approx", "ca", "fig", "jr", "sr", "inc", "ltd", "cf", "al",
    "dept", "est", "gen", "gov", "rev", "sgt", "capt", "col", "mt", "ft", "viz", "resp", "incl",
}  # fmt: skip


def ending(text: str) -> Ending:
    """What a text that was just continued is: at the end of a sentence, still inside, or at a point after a digit."""
    bare = text.strip().rstrip(CLOSERS).rstrip()
    if not bare or bare[-1] not in MARKS:
        return "open"
    if bare[-1] != ".":
        return "end"
    if re.fullmatch(r"\(?(?:\d+|[a-zA-Z]|[ivxIVX]+)\.", bare):
        return "open"  # the number of a list item
    if bare.endswith(".."):
        return "end"
    word = bare.split()[-1].lstrip("([{\"'“‘«*_").rstrip(".")
    if word.lower() in ABBREVIATIONS or re.fullmatch(r"[A-HJ-Z]|(?:[A-Za-z]\.)+[A-Za-z]", word):
        return "open"
    return "number" if word[-1:].isdigit() else "end"


class SentenceEnds:
    """Which tokens can end a sentence, and which go on with a number.

    Args:
        tokenizer: of the policy.
        size: number of logits, at least the size of the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        number = min(size, len(tokenizer))
        special = set(tokenizer.all_special_ids)
        texts = tokenizer.batch_decode([[token] for token in range(number)], skip_special_tokens=False)
        raw = tokenizer.convert_ids_to_tokens(list(range(number)))
        self.may_end = torch.zeros(size, dtype=torch.bool)
        self.starts_with_digit = torch.zeros(size, dtype=torch.bool)
        for token, (text, own) in enumerate(zip(texts, raw, strict=True)):
            if token in special:
                continue
            bare = text.rstrip().rstrip(CLOSERS).rstrip()
            # a lone closing quote may follow an end mark: the text so far decides
            self.may_end[token] = bool(bare and bare[-1] in MARKS) or bool(text.strip() and not bare)
            self.starts_with_digit[token] = re.match(r"\d|<0x3\d>$", own or "") is not None

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both masks on a device. Shapes: (size,), (size,) bool."""
        return self.may_end.to(device), self.starts_with_digit.to(device)
