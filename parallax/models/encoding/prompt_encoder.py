"""From an image and a question to what the model reads. No model inside: it runs in data-loader workers.

Order of things done to an image (as in the papers' pipelines): the view's image side on the picture, padding to a
square if asked for, the processor (resize, normalise, cut), the view's tensor side on the normalised picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallax.models.batch import EncodedDialogue, EncodedPrompt, ScoringBatch
from parallax.models.encoding.chat import CannotWrite, Chat, Prompt, first_prompt
from parallax.models.encoding.control_tokens import UnusableText
from parallax.models.encoding.image_tokens import Encoded, ImageTokens
from parallax.models.encoding.pixels import change_pixels, painted
from parallax.models.foreign import Processor
from parallax.models.ingredients import processor_digest
from parallax.records import Conversation, Message, Response, ViewSpec, fingerprint, naming

if TYPE_CHECKING:
    from PIL import Image

    Pictures = Image.Image | Sequence[Image.Image]

IDENTITY = ViewSpec()


class PromptTooLong(ValueError):
    """Prompt and answer do not fit the model's context. Nothing is ever cut; the sample has to be set aside."""


class PromptEncoder:
    """Everything a worker needs to turn samples into tensors. Picklable.

    `max_context` counts tokens of prompt and answer together, image tokens included. `image_pad` pads images to a
    square with the processor's mean colour first.
    """

    def __init__(
        self, processor: Processor, *, end_token_ids: tuple[int, ...], max_context: int, image_pad: bool = False
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

    def render(self, prompt: Prompt, answer_turns: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt as the chat template writes it, generation prompt on (see `Chat.render`)."""
        return self.chat.render(prompt, answer_turns)

    def encode_prompt(self, image: Pictures, prompt: Prompt, view: ViewSpec = IDENTITY) -> EncodedPrompt:
        """The images of a prompt, seen through `view`, with its texts.

        Raises PromptTooLong, `CannotWrite`, or ValueError for an unusable view or another number of images than the prompt shows.
        """
        return self._encode_prompt(_listed(image), prompt, view, None)

    def encode_conversation(self, conversation: Conversation, view: ViewSpec = IDENTITY) -> EncodedPrompt:
        """As `encode_prompt`, its images opened here. Raises `BadImage` too."""
        with naming(conversation):
            return self.encode_prompt([image.load() for image in conversation.images], conversation, view)

    def encode_prompts(
        self, image: Pictures, asked: Sequence[tuple[Prompt, ViewSpec]]
    ) -> list[EncodedPrompt | Exception]:
        """Several (prompt, view) about the same images: what `encode_prompt` gives for each, or the error it raises.

        What does not depend on the view (and on the question) is done once; prompts with the same view share its tensors.
        """
        known: list[dict[Any, Any]] = [{} for _ in _listed(image)]
        encoded: list[EncodedPrompt | Exception] = []
        for prompt, view in asked:
            try:
                encoded.append(self._encode_prompt(_listed(image), prompt, view, known))
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
        seen = self.image_tokens.see(picture) if spliced else self.image_tokens.called([picture], self.render("?"))
        return painted(seen[1], change, self.processor.image_processor)

    def prompt_length(self, image: Image.Image, rendered: str) -> int:
        """Tokens of a rendered prompt with its image, also where that is more than the context."""
        return len(self._encode_with_images([image], rendered, IDENTITY)[0])

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

    def encode_start(self, text: str) -> list[int]:
        """Token ids of how an answer begins, without an end token; none for no text."""
        return list(self.chat.encode_response(text)[:-1]) if text else []

    def encode_dialogue(
        self, images: Pictures, turns: Sequence[tuple[str | Message, str]], opening: Sequence[Message] = ()
    ) -> EncodedDialogue:
        """A dialogue of (question, answer) turns after `opening`; all answers and their end tokens are to be learned.

        `images` are all that it shows, in order. Raises `CannotWrite` for a later question with an image where the processor has
        to be called on the whole text.
        """
        pictures = _listed(images)
        known: list[dict[Any, Any]] = [{} for _ in pictures]
        stretches = self.chat.encode_turns(turns, opening)
        first, later = stretches[0][0], [token for stretch, _ in stretches[1:] for token in stretch]
        rendered = self.render(first_prompt(turns, opening))
        if not any(isinstance(question, Message) and question.images for question, _ in turns[1:]):
            ids, vision, token_inputs = self._encode_with_images(pictures, rendered, IDENTITY, known, first)
            mask = [False] * len(ids) + [learn for stretch, learn in stretches[1:] for _ in stretch]
            ids = torch.cat([ids, torch.tensor(later, dtype=torch.long)])
        elif self.image_tokens.can_splice(self._padded(pictures[0].convert("RGB"))):
            ids, vision, token_inputs = self._encode_with_images(pictures, rendered, IDENTITY, known, first + later)
            mask, lengths = [], iter(len(own["seen"][0]) for own in known)
            for stretch, learn in stretches:
                for token in stretch:
                    mask += [False] * next(lengths) if token == self.image_tokens.placeholder_id else [learn]
        else:
            raise CannotWrite(
                "a later question of the dialogue shows an image, which this model's processor cannot be given"
            )
        if len(ids) > self.max_context:
            raise PromptTooLong(
                f"the dialogue takes {len(ids)} tokens with its image and the model's context is "
                f"{self.max_context}; drop turns, lower model.max_pixels or raise model.context"
            )
        return EncodedDialogue(
            input_ids=ids,
            labels_mask=torch.tensor(mask),
            vision=vision,
            token_inputs={
                name: torch.cat([value, value.new_zeros(len(ids) - len(value))]) for name, value in token_inputs.items()
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

    @cached_property
    def processor_fingerprint(self) -> str:
        """Names the processor: its settings, the image processor's class (hence backend), the tokenizer's full content."""
        return processor_digest(self.processor, image_pad=self.image_pad, end_token_ids=list(self.end_token_ids))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _encode_prompt(
        self, images: Sequence[Image.Image], prompt: Prompt, view: ViewSpec, known: list[dict[Any, Any]] | None
    ) -> EncodedPrompt:
        if isinstance(prompt, Conversation) and len(prompt.images) != len(images):
            raise ValueError(f"the prompt shows {len(prompt.images)} images and {len(images)} were given")
        ids, vision, token_inputs = self._encode_shown(images, prompt, view, known)
        if len(ids) >= self.max_context:
            raise PromptTooLong(
                f"the prompt takes {len(ids)} tokens with its image and the model's context is {self.max_context}, which "
                "leaves no room for an answer; shorten the prompt, lower model.max_pixels or raise model.context"
            )
        return EncodedPrompt(ids, vision, token_inputs)

    def _encode_shown(
        self, images: Sequence[Image.Image], prompt: Prompt, view: ViewSpec, known: list[dict[Any, Any]] | None
    ) -> Encoded:
        from augment.registry import places_shown

        places = places_shown(view, len(images))
        if len(places) == len(images):
            return self._encode_with_images(images, self.render(prompt), view, known)
        messages = prompt.showing(places) if isinstance(prompt, Conversation) else (Message("user", (prompt,)),)
        rendered = self.chat.render_messages(messages)
        if places:
            left = None if known is None else [known[place] for place in places]
            return self._encode_with_images([images[place] for place in places], rendered, IDENTITY, left)
        self.image_tokens.can_splice(self._padded(images[0].convert("RGB")))  # what it finds out stands in `per_token`
        ids = torch.tensor(self.chat.encode(rendered), dtype=torch.long)
        return ids, {}, {name: torch.zeros_like(ids) for name in self.image_tokens.per_token}

    def _encode_with_images(
        self,
        images: Sequence[Image.Image],
        rendered: str,
        view: ViewSpec,
        known: list[dict[Any, Any]] | None = None,
        text_ids: list[int] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Expanded token ids (P,), vision inputs and per-token inputs of the images of one rendered prompt.

        `known` remembers for each image what other prompts about it can use again; start with empty ones.
        """
        from augment.registry import views_of

        known = [{} for _ in images] if known is None else known
        for image, own in zip(images, known, strict=True):
            if "upright" not in own:
                own["upright"] = image.convert("RGB")
                own["clean"] = self._padded(own["upright"])
        views = views_of(view, len(images)) if len(images) > 1 else [view]
        if not self.image_tokens.can_splice(known[0]["clean"]):
            return self._called(rendered, views, known)
        seen = [self._seen(own, own_view) for own, own_view in zip(known, views, strict=True)]
        if text_ids is None and rendered not in known[0]:
            known[0][rendered] = self.chat.encode(rendered)
        return self.image_tokens.put(seen, known[0][rendered] if text_ids is None else text_ids)

    def _called(self, rendered: str, views: Sequence[ViewSpec], known: Sequence[dict[Any, Any]]) -> Encoded:
        shown = [self._shown(view, own) for view, own in zip(views, known, strict=True)]
        ids, vision, token_inputs = self.image_tokens.called([picture for picture, _ in shown], rendered)
        changes = [change for _, change in shown]
        if len(shown) > 1 and any(change is not None for change in changes):
            raise ValueError(
                "this model's processor takes several images at once, and a view of the normalised tensor sees one; use a view "
                "that acts on the picture itself (such as aug=low_resolution)"
            )
        return ids, self._changed(vision, changes[0]), token_inputs

    def _seen(self, own: dict[Any, Any], view: ViewSpec) -> Encoded:
        """How an image looks through a view, whatever is asked about it."""
        name = fingerprint([view.name, _plain(dict(view.params)), view.seed])
        if name not in own:
            picture, change = self._shown(view, own)
            if own.get("picture") is not picture:
                own["picture"], own["seen"] = picture, self.image_tokens.see(picture)
            inner, vision, token_inputs = own["seen"]
            own[name] = inner, self._changed(vision, change), token_inputs
        found: Encoded = own[name]
        return found

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


def _listed(images: Pictures) -> Sequence[Image.Image]:
    from PIL import Image as PILImage

    return [images] if isinstance(images, PILImage.Image) else images


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


def _plain(value: object) -> Any:
    """Settings as plain data: whatever JSON does not know becomes its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
