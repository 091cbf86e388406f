"""What the language side is taught: conversations about scenes, in the proportions the settings give.

A lesson is a list of (question, answer) turns about one scene. Short questions come several to a conversation, which
also teaches the model to hold a dialogue.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.shapes import instructions, questions
from datamodules.shapes.scene import Scene

Turns = list[tuple[str, str]]
LESSON_KINDS = (*questions.DESCRIPTION_KINDS, "short", "infused", "judge")


def lesson(scene: Scene, kind: str, rng: np.random.Generator) -> Turns:
    """One conversation of a kind (`LESSON_KINDS`)."""
    if kind == "short":
        kinds = rng.permutation(len(questions.SHORT_KINDS))
        return [questions.question(questions.SHORT_KINDS[int(k)], scene, rng) for k in kinds]
    if kind == "infused":
        return [instructions.infused_turn(scene, rng)]
    if kind == "judge":
        return [instructions.judge_turn(scene, rng)]
    turns = [questions.question(kind, scene, rng)]
    if rng.random() < 0.15:  # now and then a short question follows
        follow = questions.SHORT_KINDS[int(rng.integers(len(questions.SHORT_KINDS)))]
        turns.append(questions.question(follow, scene, rng))
    return turns


def draw_kind(mix: dict[str, float], rng: np.random.Generator) -> str:
    """A lesson kind, drawn in proportion to `mix`."""
    weights = np.array([mix[kind] for kind in LESSON_KINDS])
    return LESSON_KINDS[int(rng.choice(len(LESSON_KINDS), p=weights / weights.sum()))]


def messages(turns: Turns) -> list[dict[str, Any]]:
    """The conversation as a chat template wants it: the image goes with the first question."""
    chat: list[dict[str, Any]] = []
    for position, (question, answer) in enumerate(turns):
        image = [{"type": "image"}] if position == 0 else []
        chat.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return chat


def encode(processor: Any, turns: Turns, image_tokens: int, weighting: float = 0.0) -> tuple[list[int], list[float]]:
    """Token ids of a conversation and the weight of each in the loss: above 0 for answers and their end tokens.

    An answer of n tokens weighs n^(1 - weighting): 0 counts tokens alike, 1 counts answers alike, however short.
    The whole text is tokenised at once; which tokens belong to answers is read off the character offsets.
    """
    text = processor.apply_chat_template(messages(turns), tokenize=False)
    expanded = text.replace("<image>", "<image>" * image_tokens, 1)
    coded = processor.tokenizer(expanded, return_offsets_mapping=True)
    weights = [0.0] * len(coded["input_ids"])
    cursor = 0
    for _, answer in turns:
        begin = expanded.index(f"ASSISTANT: {answer}</s>", cursor) + len("ASSISTANT:")
        cursor = begin + len(f" {answer}</s>")
        places = [
            place for place, (first, last) in enumerate(coded["offset_mapping"]) if begin <= first < last <= cursor
        ]
        for place in places:
            weights[place] = len(places) ** -weighting
    return coded["input_ids"], weights
