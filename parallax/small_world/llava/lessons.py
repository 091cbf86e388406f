"""What the language side is taught: conversations about scenes, in the proportions the settings give.

A lesson is a list of (question, answer) turns about one scene. Look-up lessons are one short question each, or the judging
of two answers: things that can only be answered by finding what is named in the picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.shapes import instructions, questions
from datamodules.shapes.scene import Scene

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
