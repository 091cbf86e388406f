"""The processor's chat template, and the seams in it: where a question ends, an answer begins and a turn closes.

There is one template for generation, training and evaluation: the processor's own. A prompt is a text, before which the one
image stands, or a `Conversation` of any messages and images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from parallax.models.encoding.control_tokens import HOLE, ControlTokens, ids_of
from parallax.models.encoding.template_trial import SECONDS, try_template
from parallax.models.foreign import Processor
from parallax.records import Conversation, Message, fingerprint
from parallax.records.plain_text import quoted
from parallax.records.time_limit import time_limit

TRIED = 8  # prompts rendered in full before a template is trusted to copy questions as they are
RULES = 1  # version of how this file turns a rendering into tokens; part of the template's fingerprint


PLACEHOLDERS = ("image_token", "video_token", "audio_token", "image_placeholder_token")  # of processors

Prompt = str | Conversation  # a question about one image, or all that comes before an answer


class CannotWrite(ValueError):
    """The template has no place for a part of a conversation."""


class Chat:
    """Renders dialogues with one processor and tokenises their text (with a single, unexpanded image token)."""

    def __init__(self, processor: Processor, end_token_ids: tuple[int, ...]) -> None:
        if not (templates := getattr(processor, "chat_template", None)):
            raise ValueError(
                f"{type(processor).__name__} has no chat template; add chat_template.jinja to the checkpoint's folder"
            )
        self.processor = processor
        self.tokenizer = processor.tokenizer
        for template in templates.values() if isinstance(templates, dict) else [templates]:
            try_template(
                str(template), **{name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
            )
        names = tuple(getattr(processor, name, None) or "" for name in PLACEHOLDERS)
        self.control = ControlTokens(self.tokenizer, names)
        self.placeholder_ids = ids_of(self.tokenizer, [name for name in names if name])
        self.end_token_ids = end_token_ids

    def fingerprint(self) -> str:
        """Names the template, what it renders to (it may print today's date) and our way of tokenising that."""
        return self._name() if "strftime_now" in str(self.processor.chat_template) else self._lasting_name

    @cached_property
    def _lasting_name(self) -> str:
        return self._name()

    def _name(self) -> str:
        rendered = self._apply([self._user(HOLE, first=True, marked=True)], add_generation_prompt=True)
        return fingerprint({"template": self.processor.chat_template, "rendered": rendered, "rules": RULES})

    def render(self, prompt: Prompt, answer_turns: Sequence[tuple[str, str]] = ()) -> str:
        """The text of a prompt that waits for an answer.

        `answer_turns` are earlier (question, answer) turns; `prompt` is then the last question. Control tokens in any of
        them come out wrapped in private-use marks (see `control_tokens`). Raises `CannotWrite` for a conversation the template
        leaves something out of.
        """
        if isinstance(prompt, Conversation) and not prompt.is_plain:
            return self.render_messages(prompt.messages)
        prompt = prompt.question if isinstance(prompt, Conversation) else prompt
        messages: list[dict[str, Any]] = []
        for question, answer in answer_turns:
            messages += [self._user(question, first=not messages), _text_turn("assistant", self.control.mark(answer))]
        messages.append(self._user(prompt, first=not messages))
        return self._apply(messages, add_generation_prompt=True)

    def render_messages(self, messages: Sequence[Message]) -> str:
        """As `render`, of messages as they are; they may show no picture."""
        rendered = self._apply([self._turn(message) for message in messages], add_generation_prompt=True)
        place = 0
        for message in messages:
            for part in message.parts:
                text = self.control.mark(part).strip() if isinstance(part, str) else ""
                found = rendered.find(text, place)
                if found < 0 and text not in rendered:
                    raise CannotWrite(
                        f"the model's chat template leaves out a text of the {message.role}; take it out of the data, or use a "
                        "model whose template has a place for it"
                    )
                place = max(place, found)
        if sum(not isinstance(part, str) for message in messages for part in message.parts) > 1:
            turns = [self._turn(message) for message in messages]
            shows = next(turn for turn in reversed(turns) if _image_in(turn))
            shows["content"].remove(_image_in(shows))
            if self._apply(turns, add_generation_prompt=True) == rendered:
                raise CannotWrite(
                    "the model's chat template takes one image; use a model that takes several, or one image a row"
                )
        return rendered

    def encode(self, rendered: str) -> list[int]:
        """Token ids of a rendering; the tokenizer adds its BOS unless the template wrote one."""
        return self.control.encode(rendered, add_special_tokens=self.adds_special_tokens(rendered))

    def adds_special_tokens(self, rendered: str) -> bool:
        """Whether the tokenizer is to add what its texts begin with, as the template has not written it."""
        bos = self.tokenizer.bos_token
        return not (bos and rendered.startswith(bos))

    def encode_response(self, text: str) -> list[int]:
        """Token ids of an answer as it follows the generation prompt, with the end token last. Shape: (R,)."""
        marked = self.control.mark(text)
        joined = marked if marked[:1].isspace() else self._joiner + marked
        before = self.control.encode_continuation(self._after_question)
        both = self.control.encode_continuation(self._after_question + joined)
        if both[: len(before)] == before:
            ids = both[len(before) :]
        else:  # the tokenizer merges across the seam; a model that generates never sees such a merge
            ids = self.control.encode_continuation(joined)
        return [*ids, self.end_token_id]

    def response_lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens `encode_response` makes of each text, tokenised in bulk where it is plain."""
        before = self.control.encode_continuation(self._after_question)
        plain = [
            text for text in dict.fromkeys(texts) if text and not text[0].isspace() and self.control.mark(text) == text
        ]
        known: dict[str, int] = {}
        for text, ids in zip(
            plain,
            self.control.encode_in_bulk([self._after_question + self._joiner + text for text in plain]),
            strict=True,
        ):
            if ids is not None and ids[: len(before)] == before:
                known[text] = len(ids) - len(before) + 1  # the end token
        return [known[text] if text in known else len(self.encode_response(text)) for text in texts]

    def prompt_lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """How many tokens `encode(render(prompt))` makes of each prompt (one for an image), in bulk where it is plain."""
        before, _, after = self._apply([self._user(HOLE, first=True, marked=True)], True).partition(HOLE)
        texts = [prompt for prompt in dict.fromkeys(prompts) if isinstance(prompt, str)]
        plain = [text for text in texts if text.strip() == text and self.control.mark(text) == text]
        if any(self.render(text) != before + text + after for text in plain[:TRIED]):
            plain = []  # the template does more with a question than to copy it
        add = self.adds_special_tokens(before)
        ids = (
            self.tokenizer([before + text + after for text in plain], add_special_tokens=add, verbose=False).input_ids
            if plain
            else []
        )
        known: dict[Prompt, int] = dict(zip(plain, map(len, ids), strict=True))
        return [known[text] if text in known else len(self.encode(self.render(text))) for text in prompts]

    def encode_turns(
        self, turns: Sequence[tuple[str | Message, str]], opening: Sequence[Message] = ()
    ) -> list[tuple[list[int], bool]]:
        """A dialogue as stretches of token ids, each with whether it is to be learned (answers with their end tokens).

        `opening`: messages before the first turn.
        """
        if not turns:
            raise ValueError("a dialogue needs at least one turn of question and answer")
        messages = [self._turn(message) for message in opening]
        for place, (question, _) in enumerate(turns):
            asked = self._user(question, first=place == 0) if isinstance(question, str) else self._turn(question)
            messages += [asked, _text_turn("assistant", HOLE)]
        between = self._apply(messages, add_generation_prompt=False).split(HOLE)
        stretches = [(self.encode(self.render(first_prompt(turns, opening))), False)]
        for index, (_, answer) in enumerate(turns):
            if index:
                text = self._after_end(between[index]).removesuffix(self._joiner)
                stretches.append((self.control.encode_continuation(text), False))
            stretches.append((self.encode_response(answer), True))
        return stretches

    @cached_property
    def end_token_id(self) -> int:
        """What closes an answer: the end token the template writes after one, else the tokenizer's EOS."""
        tail = self._example.split(HOLE)[2]
        for token in self.control.encode_continuation(tail):
            if token in self.end_token_ids:
                return token
        if self.tokenizer.eos_token_id is not None:
            return int(self.tokenizer.eos_token_id)
        return self.end_token_ids[0]

    def _after_end(self, text: str) -> str:
        """Drop the turn's closing from the text that follows an answer, since `encode_response` has written it."""
        end = self.tokenizer.convert_ids_to_tokens(self.end_token_id)
        stripped = text.lstrip(" ")
        return stripped[len(end) :] if stripped.startswith(end) else stripped

    @cached_property
    def _example(self) -> str:
        return self._apply([self._user(HOLE, first=True, marked=True), _text_turn("assistant", HOLE)], False)

    @cached_property
    def _after_question(self) -> str:
        """What the template writes between the question and the answer, e.g. ` ASSISTANT:`."""
        prompt = self._apply([self._user(HOLE, first=True, marked=True)], add_generation_prompt=True)
        return prompt.rsplit(HOLE, 1)[1]

    @cached_property
    def _joiner(self) -> str:
        """What the template writes between generation prompt and answer, e.g. one space."""
        between = self._example.split(HOLE)[1]
        return between.removeprefix(self._after_question) if between.startswith(self._after_question) else ""

    def _turn(self, message: Message) -> dict[str, Any]:
        content = [
            {"type": "text", "text": self.control.mark(part)} if isinstance(part, str) else {"type": "image"}
            for part in message.parts
        ]
        return {"role": message.role, "content": content}

    def _user(self, text: str, *, first: bool, marked: bool = False) -> dict[str, Any]:
        turn = _text_turn("user", text if marked else self.control.mark(text))
        if first:
            turn["content"].insert(0, {"type": "image"})
        return turn

    def _apply(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        try:
            with time_limit(SECONDS):
                text: str = self.processor.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
        except Exception as error:  # templates raise what their authors wrote
            why = quoted(error) or type(error).__name__
            raise CannotWrite(f"the model's chat template refuses the conversation ({why})") from error
        return text


def first_prompt(turns: Sequence[tuple[str | Message, str]], opening: Sequence[Message] = ()) -> Prompt:
    """What comes before the first answer of a dialogue."""
    first = turns[0][0]
    return first if isinstance(first, str) else Conversation((*opening, first))


def _image_in(turn: dict[str, Any]) -> dict[str, Any] | None:
    return next((part for part in turn["content"] if part["type"] == "image"), None)


def _text_turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
