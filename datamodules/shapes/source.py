"""Scenes as `Sample`s: `data=shapes`. Images are drawn when they are loaded, so a source of any size costs nothing.

>>> source = ShapesSource("pairs_habit_free", size=1200, seed=0)
>>> source[0].question, source[0].objects
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from annotated_types import MinLen
from PIL import Image

from datamodules.shapes import draw, language, questions
from datamodules.shapes.questions import KINDS
from datamodules.shapes.scene import COLOURS, SHAPES, SIDE, SPLITS, USUAL_COLOUR, Scene, generator, scene
from datamodules.source import Source
from parallax.records.fingerprint import canonical_json
from parallax.records.sample import Sample, Turn
from parallax.settings.ranges import Count, Natural, OneOf

Split = Annotated[str, OneOf(SPLITS)]
Kind = Annotated[str, OneOf(KINDS)]
POPE_CATEGORIES = ("random", "popular", "adversarial")


@dataclass(frozen=True, slots=True)
class SceneImage:
    """A picture that does not exist until it is looked at. Its digest is that of the recipe it is drawn by."""

    scene: Scene
    name: str  # `shapes:<split>:<index>`

    def load(self) -> Image.Image:
        return draw.picture(self.scene)

    def digest(self) -> str:
        return _digest(self.scene)

    def size(self) -> tuple[int, int]:
        return SIDE, SIDE

    def describe(self) -> str:
        return self.name


class ShapesSource(Source):
    """`size` samples of a split, one scene each; the kinds of question take turns.

    Args:
        split: one of `scene.SPLITS`. Splits with different purposes never share a scene.
        size: number of samples.
        seed: another seed is another set of scenes of the same split.
        kinds: question kinds, asked in turn (`questions.KINDS`).
        start: index of the first scene, so that one split can be handed out in parts.
    """

    def __init__(
        self,
        split: Split,
        size: Count,
        seed: Natural = 0,
        kinds: Annotated[Sequence[Kind], MinLen(1)] = ("describe",),
        start: Natural = 0,
    ) -> None:
        self.split, self.size, self.seed, self.kinds, self.start = split, size, seed, tuple(kinds), start
        self.name = f"shapes/{split}"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> Sample:  # type: ignore[override]
        if not -self.size <= position < self.size:
            raise IndexError(f"sample {position} of a source of {self.size}")
        index = self.start + position % self.size
        kind = self.kinds[index % len(self.kinds)]
        drawn = scene(self.split, index, self.seed)
        asked, answer = questions.question(kind, drawn, generator(self.split, index, self.seed, "question", kind))
        return _sample(self.split, self.seed, index, kind, drawn, asked, answer)

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(self.size))


@lru_cache(maxsize=100_000)
def _digest(drawn: Scene) -> str:
    """Of the recipe; asked for many times in a run, since every key of the cache has it."""
    recipe = canonical_json({"world": "shapes", "paint": draw.PAINT_VERSION, "scene": drawn.to_json()})
    return hashlib.sha256(recipe.encode()).hexdigest()


def pope_questions(split: Split, scenes: Count, seed: Natural = 0, start: Natural = 0) -> list[Sample]:
    """Yes/no questions in the manner of POPE: for each scene and category one present and one absent object.

    `random` asks for any absent object, `popular` for one that is frequent in habitual scenes, `adversarial` for one
    that habitually goes with what is there. The category is in `attributes["category"]`, the answer is "Yes." or "No.".
    """
    samples = []
    for index in range(start, start + scenes):
        drawn = scene(split, index, seed)
        rng = generator(split, index, seed, "pope")
        absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in drawn.objects]
        popular = [f"{USUAL_COLOUR[s]} {s}" for s in SHAPES if f"{USUAL_COLOUR[s]} {s}" not in drawn.objects]
        pools = {"random": absent, "popular": popular or absent, "adversarial": language.habitual_neighbours(drawn)}
        for category in POPE_CATEGORIES:
            for phrase, present in ((drawn.objects, True), (pools[category], False)):
                asked, answer = questions.exist_question(phrase[int(rng.integers(len(phrase)))], present, rng)
                extra = {"category": category, "label": "yes" if present else "no"}
                name = f"pope:{category}:{'yes' if present else 'no'}"
                samples.append(_sample(split, seed, index, "pope", drawn, asked, answer, name, extra))
    return samples


def _sample(
    split: str, seed: int, index: int, kind: str, drawn: Scene, asked: str, answer: str,
    name: str | None = None, extra: dict[str, str] | None = None,
) -> Sample:  # fmt: skip
    return Sample(
        id=f"{split}:{seed}:{index}:{name or kind}",
        source=f"shapes/{split}",
        image=SceneImage(drawn, f"shapes:{split}:{index}"),
        turns=(Turn(asked, answer),),
        kind=kind,
        objects=drawn.objects,
        attributes={"scene": drawn.to_json(), **(extra or {})},
    )
