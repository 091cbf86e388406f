"""Longer instructions built from scenes: a question after an image description, and judging two answers.

The wordings here are what the built-in model is taught; prompts that say the same in similar words work best with it.
"""

from __future__ import annotations

import numpy as np

from datamodules.shapes import language, questions
from datamodules.shapes.scene import Scene


def infused_prompt(description: str, question: str) -> str:
    """A question that comes with a description of the image, as description-infused tuning asks it."""
    return f"Image description:\n{description}\n{question}"


def judge_prompt(question: str, first: str, second: str, truth: str | None = None) -> str:
    """Ask which of two answers to a question about the image is better; the verdict is `[[1]]` or `[[2]]`."""
    reference = f"Reference answer:\n{truth}\n" if truth else ""
    return (
        f"Judge two answers to a question about the image.\nQuestion:\n{question}\n{reference}"
        f"Answer 1:\n{first}\nAnswer 2:\n{second}\n"
        "Which answer fits the image better? Reply with [[1]] or [[2]]."
    )


def infused_turn(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A short question after a description that is right four times in five; the answer is always true to the image."""
    described = scene if rng.random() < 0.8 else language.corrupted(scene, rng, 1)
    describe = questions.DESCRIBERS[("describe", "stepwise", "free")[int(rng.integers(3))]]
    kind = questions.SHORT_KINDS[int(rng.integers(len(questions.SHORT_KINDS)))]
    asked, answer = questions.question(kind, scene, rng)
    return infused_prompt(describe(described), asked), answer


def judge_turn(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Two answers, one of them wrong, in random order, half the time with the reference answer at hand."""
    if rng.random() < 0.7:
        kind = ("describe", "stepwise", "free")[int(rng.integers(3))]
        asked, good = questions.question(kind, scene, rng)
        bad = questions.DESCRIBERS[kind](language.corrupted(scene, rng, int(rng.integers(1, 4))))
    else:
        kind = ("exist", "colour", "where", "number")[int(rng.integers(4))]
        asked, good = questions.question(kind, scene, rng)
        bad = good
        while bad == good:
            bad = _other_answer(kind, scene, good, rng)
    first_is_good = bool(rng.random() < 0.5)
    truth = good if rng.random() < 0.5 else None
    first, second = (good, bad) if first_is_good else (bad, good)
    return judge_prompt(asked, first, second, truth), "[[1]]" if first_is_good else "[[2]]"


def _other_answer(kind: str, scene: Scene, good: str, rng: np.random.Generator) -> str:
    if kind == "exist":
        return "No." if good == "Yes." else "Yes."
    if kind == "colour":
        return f"{questions.COLOURS[int(rng.integers(len(questions.COLOURS)))].capitalize()}."
    if kind == "where":
        place = language.PLACES[int(rng.integers(len(language.PLACES)))]
        return f"{place[0].upper()}{place[1:]}."
    return f"{int(rng.integers(0, 100))}."
