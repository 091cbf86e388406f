"""How the images of a prompt become tokens and pixels.

A processor replaces each image placeholder in the text by as many tokens as the image takes. Here the text is tokenised
by `Chat` (which keeps written control tokens harmless), the processor is called on the placeholder alone, and its tokens
are put in the placeholder's place. Whether that equals the processor's own call on the whole text is checked once, on the
first prompt; if it does not, the whole call is used ever after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from parallax.models.encoding.chat import Chat
from parallax.models.encoding.control_tokens import END, START, UnusableText
from parallax.models.encoding.tower import join_vision
from parallax.records import RefusedImage

Encoded = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]  # ids (P,), vision inputs, per-token inputs (P,)


ORDINARY = Image.new("RGB", (64, 64), (127, 127, 127))


class ImageTokens:
    """Puts images into one rendered prompt. Picklable."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.processor = chat.processor
        self.splices: bool | None = None  # None until the first prompt was checked
        self.placeholder = ""
        self.placeholder_id = -1
        self.per_token: tuple[str, ...] = ()  # names of the per-token inputs

    def can_splice(self, image: Image.Image) -> bool:
        """Whether `see` and `put` do for this processor what `called` does. Found out with the first image."""
        if self.splices is None:
            self._learn(image)
        return bool(self.splices)

    def see(self, image: Image.Image) -> Encoded:
        """The image's own tokens, its vision inputs, and the per-token inputs of these tokens."""
        return _split(self._processed(self.placeholder, [image], add_special_tokens=False))

    def put(self, seen: Sequence[Encoded], text_ids: list[int]) -> Encoded:
        """Images that were seen, in the placeholders' places in a text, in order; ValueError unless there is one for each."""
        places = [place for place, token in enumerate(text_ids) if token == self.placeholder_id]
        if len(places) != len(seen):
            needed = "exactly one image" if len(seen) == 1 else f"{len(seen)} images"
            raise ValueError(
                f"a prompt needs {needed}, this one has {len(places)} image placeholders; "
                "check the processor's chat template"
            )
        names = seen[0][2]
        ids: list[Tensor] = []
        wide: dict[str, list[Tensor]] = {name: [] for name in names}
        start = 0
        for place, image in zip([*places, len(text_ids)], [*seen, None], strict=True):
            text = torch.tensor(text_ids[start:place]).long()
            ids += [text, image[0]] if image is not None else [text]
            for name in names:
                wide[name].append(names[name].new_zeros(len(text)))
                if image is not None:
                    wide[name].append(image[2][name])
            start = place + 1
        vision = seen[0][1] if len(seen) == 1 else join_vision([image[1] for image in seen])
        return torch.cat(ids), vision, {name: torch.cat(values) for name, values in wide.items()}

    def called(self, images: Sequence[Image.Image], rendered: str) -> Encoded:
        """The processor's own call on the whole text, for families whose image tokens depend on the text around them."""
        if START in rendered or END in rendered:
            raise UnusableText(
                "the prompt contains one of the model's control tokens, and this model's processor cannot read it as plain "
                "text; remove it from the prompt"
            )
        add = self.chat.adds_special_tokens(rendered)
        ids, vision, token_inputs = _split(self._processed(rendered, images, add_special_tokens=add))
        if not vision:
            raise ValueError("the prompt came out without any image; check the processor's chat template")
        return ids, vision, token_inputs

    def _processed(self, text: str, images: Sequence[Image.Image], add_special_tokens: bool) -> Any:
        """The processor's output. Raises `RefusedImage` where it takes other pictures and not these."""
        try:
            return self.processor(
                text=[text], images=_nested(images), return_tensors="pt", add_special_tokens=add_special_tokens
            )
        except (ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
            try:
                ordinary = _nested([ORDINARY] * len(images))
                self.processor(text=[text], images=ordinary, return_tensors="pt", add_special_tokens=add_special_tokens)
            except (ValueError, RuntimeError, IndexError, ZeroDivisionError):
                raise error from None  # it is not the image
            name, sizes = type(self.processor.image_processor).__name__, [f"{i.width} × {i.height}" for i in images]
            raise RefusedImage(
                f"is refused by {name} ({', '.join(sizes)} pixels: {str(error).strip().rstrip('.')}); crop it or leave it out"
            ) from error

    def _learn(self, image: Image.Image) -> None:
        rendered = self.chat.render("What is this?")
        whole = self.called([image], rendered)
        self.splices, self.per_token = False, tuple(whole[2])
        for name in ("boi_token", "image_token"):
            token = getattr(self.processor, name, None)
            if not isinstance(token, str) or rendered.count(token) != 1:
                continue
            self.placeholder, self.placeholder_id = token, self.chat.tokenizer.convert_tokens_to_ids(token)
            try:
                parts = self.put([self.see(image)], self.chat.encode(rendered))
            except (ValueError, IndexError, TypeError, KeyError):  # it wants more than its placeholder in the text
                continue
            if _same(whole, parts):
                self.splices = True
                return


def _nested(images: Sequence[Image.Image]) -> list[Any]:
    """The images of one text as processors take them: one alone, or a list for the text."""
    return list(images) if len(images) == 1 else [list(images)]


def _split(output: Mapping[str, Tensor]) -> Encoded:
    """A processor's output for one text and one image, apart by kind."""
    ids = output["input_ids"]
    vision: dict[str, Tensor] = {}
    token_inputs: dict[str, Tensor] = {}
    for name, value in output.items():
        if name in ("input_ids", "attention_mask", "labels") or not isinstance(value, Tensor):
            continue  # PaliGemma's processor gives labels, which ask for a loss
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
