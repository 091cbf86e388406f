"""Longer instructions built from scenes: a question after an image description, and judging two answers.

The wordings here are what the built-in model is taught; prompts that say the same in similar words work best with it.
"""

from __future__ import annotations

from dataclasses import replace

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
    """Two answers, one of them worse, in random order, half the time with the reference answer at hand."""
    return judge_descriptions_turn(scene, rng) if rng.random() < 0.7 else _judge_short_answers_turn(scene, rng)


def judge_things_turn(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Judging at its simplest: each answer names one thing, or each two, and one answer names something that is absent."""
    count = int(rng.integers(1, 3))
    true, false = (
        [*rng.permutation(scene.objects)[:count]],
        [_absent(scene, rng), *rng.permutation(scene.objects)[: count - 1]],
    )
    good = f"I see {language.enumerate_phrases(true)}."
    bad = f"I see {language.enumerate_phrases([false[int(i)] for i in rng.permutation(count)])}."
    return _in_either_order(questions.question("free", scene, rng)[0], good, bad, None, rng)


def judge_descriptions_turn(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Two descriptions of one manner; the better one is true, or (three times in ten) has fewer absent things than the other."""
    asked, good, bad, true = described_twice(scene, rng)
    return _in_either_order(asked, good, bad, true, rng)


def described_twice(scene: Scene, rng: np.random.Generator, wrong: int | None = None) -> tuple[str, str, str, str]:
    """A question, a description with `wrong` (0 to 2) absent things, one with more (at most 3), and the true one.

    Without `wrong` it is 1 three times in ten, otherwise 0.
    """
    kind = ("describe", "stepwise", "free")[int(rng.integers(3))]
    asked, true = questions.question(kind, scene, rng)
    fewer = int(rng.random() < 0.3) if wrong is None else wrong
    good = questions.DESCRIBERS[kind](_misreported(scene, rng, fewer))
    bad = questions.DESCRIBERS[kind](_misreported(scene, rng, fewer + int(rng.integers(1, 4 - fewer))))
    return asked, good, bad, true


def _judge_short_answers_turn(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    kind = ("exist", "colour", "where", "number")[int(rng.integers(4))]
    asked, good = questions.question(kind, scene, rng)
    bad = good
    while bad == good:
        bad = _other_answer(kind, scene, good, rng)
    return _in_either_order(asked, good, bad, good, rng)


def _in_either_order(
    asked: str, good: str, bad: str, reference: str | None, rng: np.random.Generator
) -> tuple[str, str]:
    first_is_good, referred = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    first, second = (good, bad) if first_is_good else (bad, good)
    return judge_prompt(asked, first, second, reference if referred else None), "[[1]]" if first_is_good else "[[2]]"


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    """A thing that is not there; half the time one that habitually goes with what is."""
    if rng.random() < 0.5:
        tempting = language.habitual_neighbours(scene)
        return tempting[int(rng.integers(len(tempting)))]
    absent = [f"{c} {s}" for c in questions.COLOURS for s in questions.SHAPES if f"{c} {s}" not in scene.objects]
    return absent[int(rng.integers(len(absent)))]


def _misreported(scene: Scene, rng: np.random.Generator, changes: int) -> Scene:
    """The scene with `changes` of its things replaced by absent ones, no two alike."""
    things = list(scene.things)
    for place in rng.permutation(len(things))[:changes]:
        colour, shape = _absent(replace(scene, things=tuple(things) + scene.things), rng).split()
        things[int(place)] = replace(things[int(place)], colour=colour, shape=shape)
    return replace(scene, things=tuple(things))


def _other_answer(kind: str, scene: Scene, good: str, rng: np.random.Generator) -> str:
    if kind == "exist":
        return "No." if good == "Yes." else "Yes."
    if kind == "colour":
        return f"{questions.COLOURS[int(rng.integers(len(questions.COLOURS)))].capitalize()}."
    if kind == "where":
        place = language.PLACES[int(rng.integers(len(language.PLACES)))]
        return f"{place[0].upper()}{place[1:]}."
    return f"{int(rng.integers(0, 100))}."
