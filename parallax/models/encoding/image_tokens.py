"""How the one image of a prompt becomes tokens and pixels.

A processor replaces the image placeholder in the text by as many tokens as the image takes. Here the text is tokenised
by `Chat` (which keeps written control tokens harmless), the processor is called on the placeholder alone, and its tokens
are put in the placeholder's place. Whether that equals the processor's own call on the whole text is checked once, on the
first prompt; if it does not, the whole call is used ever after.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from parallax.models.encoding.chat import Chat
from parallax.models.encoding.control_tokens import END, START, UnusableText
from parallax.records import RefusedImage

Encoded = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]  # ids (P,), vision inputs, per-token inputs (P,)


ORDINARY = Image.new("RGB", (64, 64), (127, 127, 127))


class ImageTokens:
    """Puts one image into one rendered prompt. Picklable."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.processor = chat.processor
        self.splices: bool | None = None  # None until the first prompt was checked
        self.placeholder = ""
        self.placeholder_id = -1

    def can_splice(self, image: Image.Image) -> bool:
        """Whether `see` and `put` do for this processor what `called` does. Found out with the first image."""
        if self.splices is None:
            self._learn(image)
        return bool(self.splices)

    def see(self, image: Image.Image) -> Encoded:
        """The image's own tokens, its vision inputs, and the per-token inputs of these tokens."""
        return _split(self._processed(self.placeholder, image, add_special_tokens=False))

    def put(self, seen: Encoded, text_ids: list[int]) -> Encoded:
        """An image that was seen, in the placeholder's place in a text. Raises ValueError unless there is just one."""
        found = text_ids.count(self.placeholder_id)
        if found != 1:
            raise ValueError(
                f"a prompt needs exactly one image, this one has {found} image placeholders; "
                "check the processor's chat template"
            )
        at = text_ids.index(self.placeholder_id)
        inner, vision, token_inputs = seen
        before, after = torch.tensor(text_ids[:at]).long(), torch.tensor(text_ids[at + 1 :]).long()
        wide = {n: torch.cat([v.new_zeros(len(before)), v, v.new_zeros(len(after))]) for n, v in token_inputs.items()}
        return torch.cat([before, inner, after]), vision, wide

    def called(self, image: Image.Image, rendered: str) -> Encoded:
        """The processor's own call on the whole text, for families whose image tokens depend on the text around them."""
        if START in rendered or END in rendered:
            raise UnusableText(
                "the prompt contains one of the model's control tokens, and this model's processor cannot read it as plain "
                "text; remove it from the prompt"
            )
        add = self.chat.adds_special_tokens(rendered)
        ids, vision, token_inputs = _split(self._processed(rendered, image, add_special_tokens=add))
        if not vision:
            raise ValueError("the prompt came out without any image; check the processor's chat template")
        return ids, vision, token_inputs

    def _processed(self, text: str, image: Image.Image, add_special_tokens: bool) -> Any:
        """The processor's output. Raises `RefusedImage` where it takes another picture and not this one."""
        try:
            return self.processor(
                text=[text], images=[image], return_tensors="pt", add_special_tokens=add_special_tokens
            )
        except (ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
            try:
                self.processor(
                    text=[text], images=[ORDINARY], return_tensors="pt", add_special_tokens=add_special_tokens
                )
            except (ValueError, RuntimeError, IndexError, ZeroDivisionError):
                raise error from None  # it is not the image
            name, (width, height) = type(self.processor.image_processor).__name__, image.size
            raise RefusedImage(
                f"is refused by {name} ({width} × {height} pixels: {str(error).strip().rstrip('.')}); crop it or leave it out"
            ) from error

    def _learn(self, image: Image.Image) -> None:
        rendered = self.chat.render("What is this?")
        whole = self.called(image, rendered)
        self.splices = False
        for name in ("boi_token", "image_token"):
            token = getattr(self.processor, name, None)
            if not isinstance(token, str) or rendered.count(token) != 1:
                continue
            self.placeholder, self.placeholder_id = token, self.chat.tokenizer.convert_tokens_to_ids(token)
            try:
                parts = self.put(self.see(image), self.chat.encode(rendered))
            except (ValueError, IndexError, TypeError, KeyError):  # it wants more than its placeholder in the text
                continue
            if _same(whole, parts):
                self.splices = True
                return


def _split(output: Any) -> Encoded:
    """A processor's output for one text and one image, apart by kind."""
    ids = output["input_ids"]
    vision: dict[str, Tensor] = {}
    token_inputs: dict[str, Tensor] = {}
    for name, value in output.items():
        if name in ("input_ids", "attention_mask") or not isinstance(value, Tensor):
            continue
        if value.shape == ids.shape:
            token_inputs[name] = value[0].long()
        else:
            vision[name] = value
    return ids[0].long(), vision, token_inputs


def _same(one: Encoded, other: Encoded) -> bool:
    if not torch.equal(one[0], other[0]):
        return False
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one[1:], other[1:], strict=True)
    )
