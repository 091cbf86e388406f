"""Text that people or models wrote must never act as a control token.

A user who types `</s>` or `<image>` means these characters. The tokenizer would read them as "end" or "an image goes
here". So control tokens found in written text are wrapped in two private-use characters before the chat template is
rendered; the rendered string is then cut at the marks, marked stretches are tokenised as plain text and everything
else (the template's own control tokens included) as usual. Text without control tokens passes through unchanged and
is tokenised in one piece, exactly as the processor alone would do it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from parallax.models.foreign import Tokenizer

START, END = "\ue0f0", "\ue0f1"  # around a control token in written text
HOLE = "\ue0f2"  # stands for text to be cut out of a rendered template
_OURS = re.compile(f"[{START}{END}{HOLE}]")


class UnusableText(ValueError):
    """A text or an answer that cannot be put before the model, since one of its control tokens would act in it."""


def ids_of(tokenizer: Tokenizer, names: Sequence[str]) -> frozenset[int]:
    """Ids of those names that are tokens; the others have none, or are read as the unknown token."""
    found = tokenizer.convert_tokens_to_ids(list(names))
    return frozenset(
        number
        for name, number in zip(names, found, strict=True)
        if number is not None and tokenizer.convert_ids_to_tokens(number) == name
    )


class ControlTokens:
    """Knows the control tokens of one tokenizer. Picklable."""

    def __init__(self, tokenizer: Tokenizer, extra: tuple[str, ...] = ()) -> None:
        """`extra`: placeholders of the processor (image, video, audio token) that the tokenizer may not call special."""
        self.tokenizer = tokenizer
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = {name for name in (*special, *tokenizer.all_special_tokens, *extra) if name and not name.isspace()}
        self.names: tuple[str, ...] = tuple(sorted(names, key=lambda name: (-len(name), name)))
        self.ids = ids_of(tokenizer, self.names)
        self._pattern = re.compile("|".join(map(re.escape, self.names)) or r"(?!)")
        self._newline = tokenizer.encode("\n", add_special_tokens=False)

    def mark(self, text: str) -> str:
        """Written text with its control tokens wrapped. Private-use marks already in it are removed first."""
        return self._pattern.sub(lambda found: START + found.group() + END, _OURS.sub("", text))

    def found(self, text: str) -> list[str]:
        """The control tokens that stand in a written text."""
        return self._pattern.findall(text)

    def encode(self, rendered: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a rendered and marked string. `add_special_tokens` lets the tokenizer add its BOS."""
        pieces = re.split(f"[{START}{END}]", rendered)  # plain, control, plain, control, …, plain
        ids: list[int] = self.tokenizer.encode(pieces[0], add_special_tokens=add_special_tokens)
        for index, piece in enumerate(pieces[1:], start=1):
            if piece:
                ids = ids + (self._as_text(piece) if index % 2 else self._continued(piece))
        return ids

    def encode_continuation(self, rendered: str) -> list[int]:
        """Token ids of a marked string that follows other text: no BOS, no space put in front."""
        ids: list[int] = []
        for index, piece in enumerate(re.split(f"[{START}{END}]", rendered)):
            if piece:
                ids = ids + (self._as_text(piece) if index % 2 else self._continued(piece))
        return ids

    def encode_in_bulk(self, texts: Sequence[str]) -> list[list[int] | None]:
        """`encode_continuation` of texts without marks; None where a text has to be encoded on its own."""
        if not texts:
            return []
        rows = self.tokenizer(["\n" + text for text in texts], add_special_tokens=False, verbose=False).input_ids
        newline = self._newline
        return [row[len(newline) :] if newline and row[: len(newline)] == newline else None for row in rows]

    def _continued(self, piece: str, **options: Any) -> list[int]:
        """Encode behind a newline that is then removed, since SentencePiece puts a space in front of a string's start."""
        ids: list[int] = self.tokenizer.encode("\n" + piece, add_special_tokens=False, **options)
        if self._newline and ids[: len(self._newline)] == self._newline:
            return ids[len(self._newline) :]
        plain: list[int] = self.tokenizer.encode(piece, add_special_tokens=False, **options)
        return plain

    def _as_text(self, control: str) -> list[int]:
        ids = self._continued(control, split_special_tokens=True)
        if self.ids.isdisjoint(ids):
            return ids
        ids = [token for char in control for token in self._continued(char, split_special_tokens=True)]
        if self.ids.isdisjoint(ids):
            return ids
        raise UnusableText(
            f"the text contains {control!r}, which this tokenizer reads as a control token however it is cut; "
            "remove it from the text"
        )
