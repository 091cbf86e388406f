"""Rows of a batch: an image once, then several conversations about it that do not see one another.

Every conversation is tokenised as if it stood alone; the shared beginning (up to the last image token) is kept once, and
positions restart after it, so that a row teaches just what its conversations would teach one by one.

What the language side is taught: conversations about scenes, in the proportions the settings give.

A lesson is a list of (question, answer) turns about one scene. Look-up lessons are one short question each, or the judging
of two answers: things that can only be answered by finding what is named in the picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules.shapes import instructions, questions
from datamodules.shapes.language import PLACES
from datamodules.shapes.scene import COLOURS, SHAPES, Scene
from parallax.models.foreign import Processor

ABSENT = 9  # the label of a thing that is in no cell

_NAMED = re.compile(
    rf"\b(?P<phrase>(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))\b"
    rf"|\bthe (?P<shape>{'|'.join(SHAPES)})\?"
    rf"|\bthing (?P<place>{'|'.join(sorted(PLACES, key=len, reverse=True))})\?"
)


@dataclass(frozen=True, slots=True)
class Coded:
    """One conversation as tokens. `named` are the places where something is named in full, with its cell or `ABSENT`.

    `asks` are pairs of the token that speaks the first token of an answer, and the named places before it that decide.
    """

    ids: list[int]
    weights: list[float]
    named: list[tuple[int, int]]
    asks: list[tuple[int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Shapes: ids, weights, positions (rows, length); mask (rows, 1, length, length), true where attention may look.

    `named` is (named things, 3): row, place, cell. `asks` is (links, 3): row, speaking place, deciding place.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    named: torch.Tensor
    asks: torch.Tensor


def encode(processor: Processor, scene: Scene, turns: Turns, image_tokens: int, weighting: float = 0.0) -> Coded:
    """Token ids of a conversation and the weight of each in the loss: above 0 for answers and their end tokens.

    An answer of n tokens weighs n^(1 - weighting): 0 counts tokens alike, 1 counts answers alike, however short.
    The whole text is tokenised at once; which tokens belong to answers is read off the character offsets.
    """
    text = processor.apply_chat_template(messages(turns), tokenize=False)
    expanded = text.replace("<image>", "<image>" * image_tokens, 1)
    coded = processor.tokenizer(expanded, return_offsets_mapping=True)
    offsets = coded["offset_mapping"]
    weights = [0.0] * len(coded["input_ids"])
    ends = {last: place for place, (first, last) in enumerate(offsets) if last > first}
    named = [(ends[match.end(match.lastgroup or 0)], _cell(scene, match)) for match in _NAMED.finditer(expanded)]
    asks, cursor, asked_from = [], 0, 0
    for _, answer in turns:
        begin = expanded.index(f"ASSISTANT: {answer}</s>", cursor) + len("ASSISTANT:")
        cursor = begin + len(f" {answer}</s>")
        places = [place for place, (first, last) in enumerate(offsets) if begin <= first < last <= cursor]
        for place in places:
            weights[place] = len(places) ** -weighting
        asks.append((places[0] - 1, _deciding([n for n in named if asked_from <= n[0] < places[0]])))
        asked_from = places[-1]
    return Coded(coded["input_ids"], weights, named, asks)


def _cell(scene: Scene, match: re.Match[str]) -> int:
    if match["place"]:
        return PLACES.index(match["place"])
    if match["phrase"]:
        return next((thing.cell for thing in scene.things if thing.phrase == match["phrase"]), ABSENT)
    return next(thing.cell for thing in scene.things if thing.shape == match["shape"])


def _deciding(named: list[tuple[int, int]]) -> tuple[int, ...]:
    """One or two named things decide together; among many, the absent ones do."""
    return tuple(place for place, cell in named if len(named) <= 2 or cell == ABSENT)


def collate(rows: Sequence[Sequence[Coded]], pad_id: int, image_id: int) -> Batch:
    """Put conversations about the same image behind one copy of it. Raises `ValueError` for an empty row."""
    if not all(rows):
        raise ValueError("a row holds no conversation; give every image one at least")
    heads = [max(i for i, token in enumerate(row[0].ids) if token == image_id) + 1 for row in rows]
    lengths = [head + sum(len(c.ids) - head for c in row) for head, row in zip(heads, rows, strict=True)]
    size = (len(rows), max(lengths))
    ids, weights, positions = torch.full(size, pad_id), torch.zeros(size), torch.zeros(size, dtype=torch.long)
    branch = torch.full(size, -1)  # 0: the shared beginning; 1, 2, …: conversations; -1: padding
    named, asks = [], []
    for r, (head, row) in enumerate(zip(heads, rows, strict=True)):
        ids[r, :head], positions[r, :head], branch[r, :head] = torch.tensor(row[0].ids[:head]), torch.arange(head), 0
        start = head
        for number, coded in enumerate(row):
            stop, shift = start + len(coded.ids) - head, start - head
            ids[r, start:stop] = torch.tensor(coded.ids[head:])
            weights[r, start:stop] = torch.tensor(coded.weights[head:])
            positions[r, start:stop] = torch.arange(head, len(coded.ids))
            branch[r, start:stop] = number + 1
            named += [(r, place + shift, cell) for place, cell in coded.named]
            asks += [(r, speaker + shift, place + shift) for speaker, places in coded.asks for place in places]
            start = stop
    same = (branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)
    mask = (same & torch.ones(size[1], size[1], dtype=torch.bool).tril()).unsqueeze(1)
    return Batch(ids, weights, positions, mask, _table(named), _table(asks))


def _table(rows: list[tuple[int, int, int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)


Turns = list[tuple[str, str]]
LESSON_KINDS = (*questions.DESCRIPTION_KINDS, "short", "infused", "judge")
_TURNS = {
    "infused": instructions.infused_turn,
    "judge": instructions.judge_turn,
    "judge_things": instructions.judge_things_turn,
    "judge_descriptions": instructions.judge_descriptions_turn,
}
LOOK_UP_KINDS = (*questions.SHORT_KINDS, "judge_things", "judge_descriptions")


def lesson(scene: Scene, kind: str, rng: np.random.Generator) -> Turns:
    """One conversation of a kind (`LESSON_KINDS` or `LOOK_UP_KINDS`)."""
    if kind == "short":
        kinds = rng.permutation(len(questions.SHORT_KINDS))
        return [questions.question(questions.SHORT_KINDS[int(k)], scene, rng) for k in kinds]
    if kind in _TURNS:
        return [_TURNS[kind](scene, rng)]
    turns = [questions.question(kind, scene, rng)]
    if kind in questions.DESCRIPTION_KINDS and rng.random() < 0.15:  # now and then a short question follows
        follow = questions.SHORT_KINDS[int(rng.integers(len(questions.SHORT_KINDS)))]
        turns.append(questions.question(follow, scene, rng))
    return turns


def draw_kind(mix: dict[str, float], rng: np.random.Generator) -> str:
    """A lesson kind, drawn in proportion to `mix`."""
    weights = np.array([mix[kind] for kind in LESSON_KINDS])
    return LESSON_KINDS[int(rng.choice(len(LESSON_KINDS), p=weights / weights.sum()))]


def look_up_lessons(scene: Scene, counts: dict[str, float], rng: np.random.Generator) -> list[Turns]:
    """As many lessons of each kind as `counts` says; a fraction is the chance of one more."""
    return [
        lesson(scene, kind, rng) for kind in LOOK_UP_KINDS for _ in range(int(counts[kind] + rng.random()))
    ]  # fmt: skip


def messages(turns: Turns) -> list[dict[str, Any]]:
    """The conversation as a chat template wants it: the image goes with the first question."""
    chat: list[dict[str, Any]] = []
    for position, (question, answer) in enumerate(turns):
        image = [{"type": "image"}] if position == 0 else []
        chat.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return chat
