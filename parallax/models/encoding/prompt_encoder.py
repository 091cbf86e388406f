"""From an image and a question to what the model reads. No model inside: it runs in data-loader workers.

Order of things done to an image (as in the papers' pipelines): the view's image side on the picture, padding to a
square if asked for, the processor (resize, normalise, cut), the view's tensor side on the normalised picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallax.models.batch import EncodedDialogue, EncodedPrompt, ScoringBatch
from parallax.models.encoding.chat import Chat
from parallax.models.encoding.control_tokens import UnusableText
from parallax.models.encoding.image_tokens import ImageTokens
from parallax.models.encoding.pixels import change_pixels, painted
from parallax.models.ingredients import processor_digest
from parallax.records import Response, ViewSpec, fingerprint

if TYPE_CHECKING:
    from PIL import Image

IDENTITY = ViewSpec()


class PromptTooLong(ValueError):
    """Prompt and answer do not fit the model's context. Nothing is ever cut; the sample has to be set aside."""


class PromptEncoder:
    """Everything a worker needs to turn samples into tensors. Picklable.

    `max_context` counts tokens of prompt and answer together, image tokens included. `image_pad` pads images to a
    square with the processor's mean colour first.
    """

    def __init__(
        self, processor: Any, *, end_token_ids: tuple[int, ...], max_context: int, image_pad: bool = False
    ) -> None:
        if not end_token_ids:
            raise ValueError("a policy needs at least one end token; set eos_token_id in the generation config")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end_token_ids = end_token_ids
        self.max_context = max_context
        self.image_pad = image_pad
        self.chat = Chat(processor, end_token_ids)
        pad = self.tokenizer.pad_token_id
        self.pad_token_id = int(pad) if pad is not None else end_token_ids[0]
        self.image_tokens = ImageTokens(self.chat)
        self.never_said = self.chat.control.ids - set(end_token_ids)  # control tokens that no answer may hold

    # -- prompts ---------------------------------------------------------------------------------------------------

    def render(self, prompt: str, answer_turns: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt as the chat template writes it, generation prompt on (see `Chat.render`)."""
        return self.chat.render(prompt, answer_turns)

    def encode_prompt(self, image: Image.Image, prompt: str, view: ViewSpec = IDENTITY) -> EncodedPrompt:
        """One image seen through `view` with one question. Raises PromptTooLong, or ValueError for an unusable view."""
        return self._encode_prompt(image, prompt, view, {})

    def encode_prompts(
        self, image: Image.Image, asked: Sequence[tuple[str, ViewSpec]]
    ) -> list[EncodedPrompt | Exception]:
        """Several (question, view) about one image: what `encode_prompt` gives for each, or the error it raises.

        What does not depend on the view (and on the question) is done once; prompts with the same view share its tensors.
        """
        known: dict[Any, Any] = {}
        encoded: list[EncodedPrompt | Exception] = []
        for prompt, view in asked:
            try:
                encoded.append(self._encode_prompt(image, prompt, view, known))
            except Exception as error:
                encoded.append(error)
        return encoded

    def picture(self, image: Image.Image, view: ViewSpec = IDENTITY) -> Image.Image:
        """What the model is shown as a picture, for another program to look at.

        A view of the normalised tensor comes as colours at the size the model reads: cut off at black and white, rounded.
        """
        known = {"upright": image.convert("RGB")}
        known["clean"] = self._padded(known["upright"])
        picture, change = self._shown(view, known)
        if change is None:
            return picture
        spliced = self.image_tokens.can_splice(picture)
        seen = self.image_tokens.see(picture) if spliced else self.image_tokens.called(picture, self.render("?"))
        return painted(seen[1], change, self.processor.image_processor)

    def prompt_length(self, image: Image.Image, rendered: str) -> int:
        """Tokens of a rendered prompt with its image, also where that is more than the context."""
        return len(self._encode_with_image(image, rendered, IDENTITY)[0])

    def encode_response(self, response: Response) -> Tensor:
        """Token ids of a response: its own where it has them, else its text with the end token. Shape: (R,)."""
        ids = response.token_ids if response.token_ids is not None else self.chat.encode_response(response.text)
        if not ids:
            raise ValueError("a response without any token cannot be scored; drop the pair")
        if response.token_ids is not None and not self.never_said.isdisjoint(ids):
            token = next(token for token in ids if token in self.never_said)
            raise UnusableText(
                f"the answer {response.text[:60]!r} holds the control token {self.tokenizer.convert_ids_to_tokens(token)!r}, "
                "which would act as one when it is scored; leave the sample out, or have it answered again"
            )
        return torch.tensor(ids, dtype=torch.long)

    def encode_dialogue(
        self, image: Image.Image, turns: Sequence[tuple[str, str]], view: ViewSpec = IDENTITY
    ) -> EncodedDialogue:
        """A dialogue of (question, answer) turns about one image; all answers and their end tokens are to be learned."""
        (first, _), *rest = self.chat.encode_turns(turns)
        ids, vision, token_inputs = self._encode_with_image(image, self.render(turns[0][0]), view, text_ids=first)
        later = torch.tensor([token for stretch, _ in rest for token in stretch], dtype=torch.long)
        learned = torch.tensor([learn for stretch, learn in rest for _ in stretch], dtype=torch.bool)
        if len(ids) + len(later) > self.max_context:
            raise PromptTooLong(
                f"the dialogue takes {len(ids) + len(later)} tokens with its image and the model's context is "
                f"{self.max_context}; drop turns, lower model.max_pixels or raise model.context"
            )
        return EncodedDialogue(
            input_ids=torch.cat([ids, later]),
            labels_mask=torch.cat([torch.zeros(len(ids), dtype=torch.bool), learned]),
            vision=vision,
            token_inputs={
                name: torch.cat([value, value.new_zeros(len(later))]) for name, value in token_inputs.items()
            },
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens and without surrounding whitespace."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    # -- batches ---------------------------------------------------------------------------------------------------

    def collate(self, items: Sequence[tuple[EncodedPrompt, Sequence[Tensor]]]) -> ScoringBatch:
        """Prompts with their responses (chosen first) as one batch. Every prompt needs the same number of responses.

        Raises PromptTooLong when a prompt and one of its responses do not fit the context together.
        """
        if len({len(responses) for _, responses in items}) != 1:
            raise ValueError("all prompts of a batch need the same number of responses (one chosen and K rejected)")
        for prompt, responses in items:
            longest = len(prompt.input_ids) + max(len(response) for response in responses)
            if longest > self.max_context:
                raise PromptTooLong(
                    f"prompt and response take {longest} tokens and the model's context is {self.max_context}; shorten "
                    "them, lower model.max_pixels or raise model.context"
                )
        names = {name for prompt, _ in items for name in prompt.token_inputs}
        width = max(len(response) for _, responses in items for response in responses)
        return ScoringBatch(
            prompt_ids=_pad_right([prompt.input_ids for prompt, _ in items], self.pad_token_id),
            prompt_lengths=torch.tensor([len(prompt.input_ids) for prompt, _ in items]),
            response_ids=torch.stack([_pad_right(responses, self.pad_token_id, width) for _, responses in items]),
            response_lengths=torch.tensor([[len(response) for response in responses] for _, responses in items]),
            vision=[prompt.vision for prompt, _ in items],
            token_inputs={name: _pad_right([prompt.token_inputs[name] for prompt, _ in items], 0) for name in names},
        )

    def collate_dialogues(self, items: Sequence[EncodedDialogue]) -> ScoringBatch:
        """Dialogues as a batch with one response each: everything from the first learned token on, the rest not counted."""
        starts = [int(item.labels_mask.int().argmax()) for item in items]
        prompts = [
            EncodedPrompt(
                item.input_ids[:start], item.vision, {name: value[:start] for name, value in item.token_inputs.items()}
            )
            for item, start in zip(items, starts, strict=True)
        ]
        pairs = [(prompt, [item.input_ids[s:]]) for prompt, item, s in zip(prompts, items, starts, strict=True)]
        batch = self.collate(pairs)
        masks = [item.labels_mask[start:] for item, start in zip(items, starts, strict=True)]
        batch.response_mask = _pad_right(masks, 0, batch.response_ids.shape[2])[:, None]
        return batch

    # -- names -----------------------------------------------------------------------------------------------------

    def processor_fingerprint(self) -> str:
        """Names the processor: its settings, the image processor's class (hence backend), the tokenizer's full content."""
        return processor_digest(self.processor, image_pad=self.image_pad, end_token_ids=list(self.end_token_ids))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _encode_prompt(self, image: Image.Image, prompt: str, view: ViewSpec, known: dict[Any, Any]) -> EncodedPrompt:
        ids, vision, token_inputs = self._encode_with_image(image, self.render(prompt), view, known)
        if len(ids) >= self.max_context:
            raise PromptTooLong(
                f"the prompt takes {len(ids)} tokens with its image and the model's context is {self.max_context}, which "
                "leaves no room for an answer; shorten the prompt, lower model.max_pixels or raise model.context"
            )
        return EncodedPrompt(ids, vision, token_inputs)

    def _encode_with_image(
        self,
        image: Image.Image,
        rendered: str,
        view: ViewSpec,
        known: dict[Any, Any] | None = None,
        text_ids: list[int] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Expanded token ids (P,), vision inputs and per-token inputs of one image with one rendered prompt.

        `known` remembers what other prompts about the same image can use again; start with an empty one.
        """
        known = {} if known is None else known
        if "upright" not in known:
            known["upright"] = image.convert("RGB")
            known["clean"] = self._padded(known["upright"])
        if not self.image_tokens.can_splice(known["clean"]):
            picture, change = self._shown(view, known)
            ids, vision, token_inputs = self.image_tokens.called(picture, rendered)
            return ids, self._changed(vision, change), token_inputs
        name = fingerprint([view.name, _plain(dict(view.params)), view.seed])
        if name not in known:  # how the image looks through this view, whatever is asked about it
            picture, change = self._shown(view, known)
            if known.get("picture") is not picture:
                known["picture"], known["seen"] = picture, self.image_tokens.see(picture)
            inner, vision, token_inputs = known["seen"]
            known[name] = inner, self._changed(vision, change), token_inputs
        if text_ids is None and rendered not in known:
            known[rendered] = self.chat.encode(rendered)
        return self.image_tokens.put(known[name], known[rendered] if text_ids is None else text_ids)

    def _shown(self, view: ViewSpec, known: dict[Any, Any]) -> tuple[Image.Image, Callable[[Tensor], Tensor] | None]:
        """The picture as the processor gets it, and what is to be done to its pixels afterwards."""
        from augment.registry import view_from_spec
        from augment.view import generator_for

        if view.name == IDENTITY.name:
            return known["clean"], None
        transform, generator = view_from_spec(view), generator_for(view.seed)
        if transform.acts_on == "tensor":
            return known["clean"], lambda pixels: transform.on_tensor(pixels, generator)
        picture = self._padded(transform.on_image(known["upright"], generator))
        return picture, None if transform.acts_on == "image" else lambda pixels: transform.on_tensor(pixels, generator)

    def _padded(self, image: Image.Image) -> Image.Image:
        return pad_to_square(image, self.processor.image_processor.image_mean) if self.image_pad else image

    def _changed(self, vision: dict[str, Tensor], change: Callable[[Tensor], Tensor] | None) -> dict[str, Tensor]:
        """`vision` itself is left as it is, whatever the view does to the pixels it is given."""
        if change is None:
            return vision
        return change_pixels(vision, lambda pixels: change(pixels.clone()), self.processor.image_processor)


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The image centred on a square of its longer side, filled with `int(255 * mean)` (LLaVA's "pad" mode)."""
    from PIL import Image as PILImage

    side = max(image.size)
    if image.size == (side, side):
        return image
    canvas = PILImage.new("RGB", (side, side), tuple(int(255 * value) for value in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _pad_right(rows: Sequence[Tensor], value: int, width: int | None = None) -> Tensor:
    """Rows of different length as one matrix. Shape: (len(rows), width)."""
    width = max(len(row) for row in rows) if width is None else width
    result = rows[0].new_full((len(rows), width), value)
    for index, row in enumerate(rows):
        result[index, : len(row)] = row
    return result


def _plain(value: Any) -> Any:
    """Settings as plain data: whatever JSON does not know becomes its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
