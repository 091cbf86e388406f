"""The image placeholder in texts of the LLaVA family: taken out, counted, and never left for the tokenizer to find."""

from __future__ import annotations

import re

IMAGE = "<image>"


def without_placeholder(text: str) -> str:
    """`text` without `<image>`: with its line break at either end, as one space in the middle."""
    if IMAGE not in text:
        return text
    text = re.sub(rf"^\s*(?:{IMAGE}\s*)+", "", text)
    text = re.sub(rf"(?:\s*{IMAGE})+\s*$", "", text)
    return re.sub(rf"[ \t]*{IMAGE}[ \t]*", " ", text)


def count_placeholders(*texts: str) -> int:
    """How many images the texts ask for."""
    return sum(text.count(IMAGE) for text in texts)
