"""What is in a scene: three to five coloured shapes and a number sign on a three-by-three grid, all from one seed.

Two distributions exist. In a *habitual* scene shapes follow one another along a fixed cycle and each wears its usual
colour most of the time; in a *habit-free* scene every shape and colour is drawn alike. A model that learned to talk
from habitual scenes will therefore say habitual things about habit-free ones: the hallucinations that tuning is to remove.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

SHAPES = ("circle", "star", "square", "triangle", "diamond", "cross")
COLOURS = ("red", "yellow", "blue", "green", "purple", "orange")
USUAL_COLOUR = dict(zip(SHAPES, COLOURS, strict=True))  # a habitual circle is red, a habitual star yellow, …
FOLLOWS = {
    shape: SHAPES[(i + 1) % len(SHAPES)] for i, shape in enumerate(SHAPES)
}  # in reading order, circle → star → …
CELLS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
SIDE = 96  # pixels, height and width of a scene
CELL = SIDE // 3  # pixels

COLOUR_HABIT = 0.88  # share of shapes in a habitual scene that wear their usual colour by habit
ORDER_HABIT = 0.75  # share of shapes in a habitual scene that follow their predecessor's habit

# Scenes are told apart by what they show, not by luck: the hash of a scene's content modulo 8 says to which group of
# splits it may belong, so that no two groups can ever share a scene.
_GROUPS = {"train": range(4), "pairs": range(4, 6), "tune": range(6, 7), "eval": range(7, 8)}
SPLITS: dict[str, tuple[str, bool]] = {  # name: (group, habitual?)
    "base_train": ("train", True),
    "vision_train": ("train", False),
    "pairs_habit_free": ("pairs", False),
    "pairs_habitual": ("pairs", True),
    "tune_habit_free": ("tune", False),
    "tune_habitual": ("tune", True),
    "eval_habit_free": ("eval", False),
    "eval_habitual": ("eval", True),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape. `cell` counts the grid in reading order; `dx`, `dy` shift it from the cell's middle (pixels)."""

    shape: str
    colour: str
    cell: int
    dx: int
    dy: int
    size: int  # pixels, width and height of the box the shape fills

    @property
    def phrase(self) -> str:
        """How people name it: colour and shape. This is the unit in which hallucinations are counted."""
        return f"{self.colour} {self.shape}"

    @property
    def row(self) -> int:
        return self.cell // 3

    @property
    def column(self) -> int:
        return self.cell % 3


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a picture shows. `things` are in reading order; `number` (0-99) is written on a sign in `sign_cell`."""

    things: tuple[Thing, ...]
    number: int
    sign_cell: int
    background: tuple[int, int, int]
    paint_seed: int  # seeds the small variations of shade that `draw` applies

    @property
    def objects(self) -> tuple[str, ...]:
        return tuple(thing.phrase for thing in self.things)

    def content(self) -> str:
        """The scene without its looks: what splits are kept disjoint by."""
        things = ";".join(f"{t.cell}{t.colour}{t.shape}" for t in self.things)
        return f"{things}|{self.sign_cell}:{self.number}"

    def to_json(self) -> dict[str, Any]:
        recipe = {name: getattr(self, name) for name in self.__slots__}
        recipe["things"] = [{name: getattr(thing, name) for name in thing.__slots__} for thing in self.things]
        recipe["background"] = list(self.background)
        return recipe

    @classmethod
    def from_json(cls, recipe: dict[str, Any]) -> Scene:
        things = tuple(Thing(**thing) for thing in recipe["things"])
        return cls(things, recipe["number"], recipe["sign_cell"], tuple(recipe["background"]), recipe["paint_seed"])


@lru_cache(maxsize=4096)
def scene(split: str, index: int, seed: int = 0) -> Scene:
    """The scene number `index` of a split. The same three arguments always give the same scene.

    Raises `ValueError` for a split that does not exist and for a negative index.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r} in the shapes world; choose one of {', '.join(sorted(SPLITS))}")
    if index < 0:
        raise ValueError(f"scene index {index} is negative; scenes are counted from 0")
    group, habitual = SPLITS[split]
    rng = generator(split, index, seed, "scene")
    while True:
        drawn = _draw_scene(rng, habitual)
        if hashlib.blake2b(drawn.content().encode(), digest_size=4).digest()[0] % 8 in _GROUPS[group]:
            return drawn


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on nothing but the key."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def _draw_scene(rng: np.random.Generator, habitual: bool) -> Scene:
    count = int(rng.integers(3, 6))
    looks = _habitual_looks(rng, count) if habitual else _free_looks(rng, count)
    places = rng.permutation(9)[: count + 1]
    cells = np.sort(places[:count])
    jitter = rng.integers(-3, 4, size=(count, 2))
    sizes = rng.integers(20, 25, size=count)
    things = tuple(
        Thing(shape, colour, int(cell), int(dx), int(dy), int(size))
        for (shape, colour), cell, (dx, dy), size in zip(looks, cells, jitter, sizes, strict=True)
    )
    red, green, blue = (int(v) for v in rng.integers(205, 246) + rng.integers(-8, 9, size=3))
    return Scene(things, int(rng.integers(0, 100)), int(places[count]), (red, green, blue), int(rng.integers(0, 2**31)))


def _free_looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    kinds = rng.choice(len(SHAPES) * len(COLOURS), size=count, replace=False)
    return [(SHAPES[k // len(COLOURS)], COLOURS[k % len(COLOURS)]) for k in kinds]


def _habitual_looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        follows = bool(looks) and rng.random() < ORDER_HABIT
        shape = FOLLOWS[looks[-1][0]] if follows else SHAPES[rng.integers(len(SHAPES))]
        usual = rng.random() < COLOUR_HABIT
        look = (shape, USUAL_COLOUR[shape] if usual else COLOURS[rng.integers(len(COLOURS))])
        if look not in looks:  # every phrase names one thing, so that questions about it have one answer
            looks.append(look)
    return looks
