"""Special tokens that sometimes stay in an answer's text; every reader of answers removes them first."""

from __future__ import annotations

import re

# <s>, </s>, <unk>, <pad>, <eos>, <bos>, <|im_end|>, <|endoftext|>, <|eot_id|>, <end_of_turn>, <image>
_SPECIAL = re.compile(r"<\|[^<>|]*\|>|</?(?:s|unk|pad|eos|bos|image|start_of_turn|end_of_turn|end_of_utterance)>")


def plain_text(text: str) -> str:
    """The answer without special tokens and without blanks around it."""
    return _SPECIAL.sub("", text).strip()
