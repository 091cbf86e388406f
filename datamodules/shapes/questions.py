"""Questions about a scene and their true answers: short ones of six kinds and requests for descriptions of four kinds.

Every kind has several wordings; which one is asked depends only on the generator handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from datamodules.shapes import language
from datamodules.shapes.language import NUMBER_WORDS, PLACES
from datamodules.shapes.scene import COLOURS, SHAPES, Scene

T = TypeVar("T")
SHORT_KINDS = ("exist", "colour", "count", "where", "relation", "number")
DESCRIPTION_KINDS = ("describe", "stepwise", "free", "imagine")
KINDS = (*DESCRIPTION_KINDS, *SHORT_KINDS)

WORDINGS = {
    "describe": (
        "Describe the image.",
        "What does the image show?",
        "Describe this picture in detail.",
        "Please describe what is in the image.",
    ),
    "stepwise": (
        "Describe the image step by step.",
        "Describe the picture step by step, naming only what you can see.",
        "Go through the image carefully, one thing after another.",
        "Take a careful look and describe each thing and its place, step by step.",
    ),
    "free": (
        "Tell me about this picture.",
        "What do you see?",
        "Say freely what you see in the image.",
        "Give a short account of the picture.",
    ),
    "imagine": (
        "Imagine what might also be there.",
        "Describe the image and imagine what else might be there.",
        "Describe the picture and add things that could also be in it.",
        "What is in the image, and what might usually go with it?",
    ),
    "number": ("What number is on the sign?", "Read the number.", "What does the sign read?"),
}


def question(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question of this kind and its true answer. Raises `ValueError` for a kind that does not exist."""
    if kind in DESCRIPTION_KINDS:
        return _pick(WORDINGS[kind], rng), DESCRIBERS[kind](scene)
    if kind not in _SHORT:
        raise ValueError(f"there is no question kind {kind!r} in the shapes world; choose among {', '.join(KINDS)}")
    return _SHORT[kind](scene, rng)


def exist_question(phrase: str, present: bool, rng: np.random.Generator) -> tuple[str, str]:
    """`Is there a red circle in the image?` with its answer."""
    wordings = ("Is there {} in the image?", "Is there {}?", "Can you see {} in the picture?")
    return _pick(wordings, rng).format(language.article(phrase)), "Yes." if present else "No."


def _exist(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.5:
        return exist_question(_pick(scene.objects, rng), True, rng)
    tempting = language.habitual_neighbours(scene)
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in scene.objects]
    return exist_question(_pick(tempting if rng.random() < 0.5 else absent, rng), False, rng)


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    shapes = [thing.shape for thing in scene.things]
    single = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    if single and rng.random() < 0.7:
        thing = _pick(single, rng)
        asked = f"What colour is the {thing.shape}?"
    else:
        thing = _pick(scene.things, rng)
        asked = f"What colour is the thing {PLACES[thing.cell]}?"
    return asked, f"{thing.colour.capitalize()}."


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    way = rng.random()
    if way < 0.3:
        asked, number = "How many shapes are there?", len(scene.things)
    elif way < 0.65:
        shape = _pick(SHAPES if rng.random() < 0.3 else [t.shape for t in scene.things], rng)
        plural = shape + ("es" if shape.endswith("s") else "s")
        asked, number = f"How many {plural} are there?", sum(t.shape == shape for t in scene.things)
    else:
        colour = _pick(COLOURS if rng.random() < 0.3 else [t.colour for t in scene.things], rng)
        asked, number = f"How many {colour} things are there?", sum(t.colour == colour for t in scene.things)
    return asked, f"{NUMBER_WORDS[number].capitalize()}."


def _where(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = _pick(scene.things, rng)
    place = PLACES[thing.cell]
    return f"Where is the {thing.phrase}?", f"{place[0].upper()}{place[1:]}."


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    pairs = [(a, b) for a in scene.things for b in scene.things if a.column != b.column]
    if pairs:
        first, second = _pick(pairs, rng)
        side = _pick(("left", "right"), rng)
        true = (first.column < second.column) == (side == "left")
        return f"Is the {first.phrase} {side} of the {second.phrase}?", "Yes." if true else "No."
    first, second = (scene.things[i] for i in rng.permutation(len(scene.things))[:2])  # all in one column
    side = _pick(("above", "below"), rng)
    true = (first.row < second.row) == (side == "above")
    return f"Is the {first.phrase} {side} the {second.phrase}?", "Yes." if true else "No."


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


DESCRIBERS = {
    "describe": language.row_description,
    "stepwise": language.stepwise_description,
    "free": language.free_description,
    "imagine": language.imagined_description,
}
_SHORT = {
    "exist": _exist,
    "colour": _colour,
    "count": _count,
    "where": _where,
    "relation": _relation,
    "number": lambda scene, rng: (_pick(WORDINGS["number"], rng), f"{scene.number}."),
}
