"""What a server that generates may say: the reply to a chat completion, looked at before any of it is believed or kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parallax.models.generation.requests import BadAnswer, Generation
from parallax.records.plain_text import without_surrogates

if TYPE_CHECKING:
    from parallax.models.encoding.prompt_encoder import PromptEncoder

RETOKENISED = (
    8  # times the token limit (and a few) that the tokens of a text may be: another cut of odd text can be longer
)


class Completion:
    """Reads the reply to one request for at most `max_new_tokens` tokens."""

    def __init__(self, encoder: PromptEncoder, max_new_tokens: int) -> None:
        self.encoder, self.most = encoder, max_new_tokens

    def checked(self, reply: Mapping[str, Any]) -> tuple[Generation | BadAnswer, Sequence[int] | None]:
        """The answer, and the token ids of the prompt where the server tells them.

        Raises ValueError, or KeyError, TypeError and the like for another shape.
        """
        read = reply.get("prompt_token_ids")
        if read is not None:
            _require_ids(read, "prompt_token_ids", self._vocabulary)
        (choice,) = reply["choices"]
        reason = choice["finish_reason"]
        if reason not in ("stop", "length"):
            raise ValueError(f"finish_reason {reason!r} is neither stop nor length")
        given, content = choice.get("token_ids"), choice["message"].get("content")
        if content is not None and not isinstance(content, str):
            raise ValueError(f"content is {type(content).__name__} and no text")
        ids = self._given(given, reason == "stop") if given else self._of_text(content or "", reason == "stop")
        return self._answer(ids, reason == "stop"), read

    @property
    def _vocabulary(self) -> int:
        return len(self.encoder.tokenizer)

    def _given(self, ids: list[int], finished: bool) -> list[int]:
        """Token ids as the server gives them, with the end token last."""
        _require_ids(ids, "token_ids", self._vocabulary)
        if len(ids) > self.most:
            raise ValueError(f"{len(ids)} tokens came and at most {self.most} were asked for")
        return (
            [*ids, self.encoder.chat.end_token_id] if finished and ids[-1] not in self.encoder.end_token_ids else [*ids]
        )

    def _of_text(self, text: str, finished: bool) -> list[int]:
        if len(text) > 1000 * self.most:  # before megabytes are tokenised
            raise ValueError(f"{len(text)} characters came and at most {self.most} tokens were asked for")
        ids = list(self.encoder.chat.encode_response(without_surrogates(text).strip()))
        if len(ids) > RETOKENISED * (self.most + 8):
            raise ValueError(f"text of {len(ids)} tokens came and at most {self.most} were asked for")
        return ids if finished else ids[:-1]

    def _answer(self, ids: list[int], finished: bool) -> Generation | BadAnswer:
        body = ids[:-1] if finished else ids
        control = self.encoder.chat.placeholder_ids.union(self.encoder.end_token_ids).intersection(body)
        if control:
            names = ", ".join(map(str, self.encoder.tokenizer.convert_ids_to_tokens(sorted(control))))
            return BadAnswer(f"the server's answer holds control tokens ({names}), which no answer may have inside it")
        return Generation(tuple(ids), self.encoder.decode(ids), finished)


def model_names(reply: Mapping[str, Any]) -> set[str]:
    """The models a server says it has. Raises ValueError, or what a wrong shape raises."""
    names = [model["id"] for model in reply["data"]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the id of a model is no text")
    return set(names)


def _require_ids(ids: object, what: str, vocabulary: int) -> None:
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise ValueError(f"{what} is no list of whole numbers")
    if wrong := next((token for token in ids if not 0 <= token < vocabulary), None):
        raise ValueError(f"{what} holds {wrong}, and the vocabulary of this model has {vocabulary} tokens")
