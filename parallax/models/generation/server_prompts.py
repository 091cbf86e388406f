"""Whether a server asks its model what the policy would be asked, by the token ids it says it read.

A server renders the chat template and prepares the picture itself. It may have another template, or leave out the token a
text begins with (vLLM does so unless told otherwise), and its answers are then those of a model that was asked something else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from parallax.models.foreign import Tokenizer
from parallax.models.generation.requests import OtherPrompt
from parallax.records import Conversation

if TYPE_CHECKING:
    from PIL import Image

    from parallax.models.encoding.prompt_encoder import PromptEncoder
    from parallax.records import Message

log = logging.getLogger(__name__)


class PromptCheck:
    """Compares what a server read with what the policy's encoder makes of the same prompt. May be used by many threads."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self.agreed = False  # about one prompt at least
        self._first = threading.Lock()

    def compare(
        self, asked: Sequence[Message], pictures: Sequence[Image.Image], read: Sequence[int], start: Sequence[int] = ()
    ) -> None:
        """Raise OtherPrompt where `read`, the server's token ids with the pictures' in their places, differ from ours.

        The text around the picture is compared each time. How many tokens the picture takes is compared once, and another
        number is only warned about. `start`: tokens of the answer that were given behind the prompt.
        """
        chat = self.encoder.chat
        text = [*chat.encode(chat.render_messages(asked)), *start]
        if not pictures:
            if text != list(read):
                raise OtherPrompt(self._differs(read, text))
            return
        same = len(pictures) == 1 and agrees_around_picture(text, read)  # several: all is compared each time
        if same and self.agreed:
            return
        with self._first:
            whole = [*self.encoder.encode_prompt(pictures, Conversation(tuple(asked))).input_ids.tolist(), *start]
            if not same and whole != list(read):
                raise OtherPrompt(self._differs(read, whole))
            if len(whole) != len(read) and not self.agreed:
                log.warning(
                    "the server's prompt has %d tokens and the policy's %d: it looks at pictures at another size. Give both the "
                    "same processor settings (model.max_pixels, --mm-processor-kwargs)",
                    len(read), len(whole),
                )  # fmt: skip
            self.agreed = True

    def _differs(self, read: Sequence[int], ours: Sequence[int]) -> str:
        tokenizer = self.encoder.chat.tokenizer
        return (
            f"the server reads the prompt as {_shown(tokenizer, read)}, the policy as {_shown(tokenizer, ours)}. Start it with "
            "the policy's own chat template and tokenizer, and take control tokens out of the prompt"
        )


def agrees_around_picture(text: Sequence[int], read: Sequence[int]) -> bool:
    """Whether `read` is `text` with other tokens in the place of one of its tokens, the picture's placeholder."""
    before = sum(1 for _ in takewhile(_equal, zip(text, read, strict=False)))
    after = sum(1 for _ in takewhile(_equal, zip(reversed(text), reversed(read), strict=False)))
    return before + after >= len(text) - 1 and len(read) >= len(text)


def _equal(pair: tuple[int, int]) -> bool:
    return pair[0] == pair[1]


def _shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Token ids as text with its control tokens, a run of equal ones once with its length."""
    parts: list[list[int]] = []
    for token in ids:
        if parts and parts[-1][0] == token:
            parts[-1].append(token)
        else:
            parts.append([token])
    words, plain = [], []
    for run in parts:
        if len(run) < 4:
            plain += run
            continue
        words += [tokenizer.decode(plain), f"{tokenizer.decode(run[:1])}*{len(run)}"]
        plain = []
    return repr("".join([*words, tokenizer.decode(plain)]))
