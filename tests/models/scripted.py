"""A policy whose logits are written down: the next token's logits depend on the text so far, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from parallax.records.conversation import Conversation

WORDS = ("<pad>", "</s>", "ant", "bee", "cat", "dog", ".", "3", "!", "Mr.")  # word i is token i
PAD, END, POINT = 0, 1, 6
Rule = Callable[[tuple[str, ...]], dict[str, float]]  # words said so far -> logits of some words; the others get -20


class ScriptedTokenizer:
    """One token per word, written with spaces in front of all but points and digits after points."""

    all_special_ids = (PAD, END)

    def __len__(self) -> int:
        return len(WORDS)

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return ["".join(WORDS[token] for token in row) for row in rows]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [WORDS[token] for token in ids]


class ScriptedEncoder:
    """The prompt is one token per image; the image's name is its token."""

    end_token_ids, pad_token_id, max_context = (END,), PAD, 64
    never_said: frozenset[int] = frozenset()
    tokenizer = ScriptedTokenizer()

    def encode_prompt(self, image: Any, prompt: str, view: Any) -> Any:
        from parallax.models.batch import EncodedPrompt

        return EncodedPrompt(torch.tensor([2] * len(prompt)), {"pixel_values": torch.zeros(1, 1)})

    def encode_conversation(self, conversation: Conversation) -> Any:
        return self.encode_prompt(conversation.images[0].load(), conversation.question, None)

    def decode(self, ids: Sequence[int]) -> str:
        said = " ".join(WORDS[token] for token in ids if token not in (PAD, END))
        return said.replace(" .", ".").replace(". 3", ".3").replace(" !", "!")


class ScriptedModel(nn.Module):
    """Remembers each row's tokens in its cache, as a decoder does in its keys."""

    def __init__(self, rule: Rule, prompt_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 1)
        self.head = nn.Linear(1, len(WORDS))
        self.rule, self.prompt_length, self.calls = rule, prompt_length, 0
        text: Any = SimpleNamespace(layer_types=["full_attention"], num_kv_shared_layers=None)
        self.config = SimpleNamespace(get_text_config=lambda: text)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, past_key_values: Any, **_: Any) -> Any:
        self.calls += 1
        told = input_ids[:, None, :, None].float()
        seen, _values = past_key_values.update(told, told, 0)
        rows = seen[:, 0, :, 0].long().tolist()
        logits = torch.full((len(rows), 1, len(WORDS)), -20.0)
        for row, tokens in enumerate(rows):
            said = [t for t in tokens if t != PAD][self.prompt_length :]
            for word, value in self.rule(tuple(WORDS[t] for t in said)).items():
                logits[row, 0, WORDS.index(word)] = value
        return SimpleNamespace(logits=logits)


class ScriptedPolicy:
    """As much of a policy as a search needs."""

    device = torch.device("cpu")

    def __init__(self, rule: Rule, prompt_length: int = 1) -> None:
        self.model, self.encoder = ScriptedModel(rule, prompt_length), ScriptedEncoder()
        self._answering = self.gathered = nullcontext

    def spec(self, request: Any) -> Any:
        from parallax.records import GenerationSpec

        return GenerationSpec(
            "scripted", "float32", "", "", request.image.digest(), request.prompt, request.view, request.decoding
        )
