"""What the image-text model reads: single sentences about scenes, true ones and near misses of them.

A near miss is the same sentence with one thing wrong: another colour, another shape, both (half the time what is usual in
place of what is there), another place, or another number. It is wrong as a description is wrong that names what is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datamodules.shapes.language import PLACES, ROWS, article, enumerate_phrases, habitual_neighbours
from datamodules.shapes.scene import COLOURS, SHAPES, Scene

MISSES = ("colour", "shape", "look", "place", "number")
FORMS = {"row": 0.5, "place": 0.2, "list": 0.2, "sign": 0.1}  # kinds of sentence and their shares


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence, taken apart. `place` is a row (form `row`) or a cell (form `place`), else 0."""

    form: str
    phrases: tuple[str, ...]  # things named, such as "red circle"
    place: int
    number: int
    wording: int  # which of the form's wordings

    def text(self) -> str:
        if self.form == "row":
            return f"The {ROWS[self.place]} row has {enumerate_phrases(self.phrases)}."
        if self.form == "place":
            return f"{('First', 'Then', 'Then')[self.wording]}, {PLACES[self.place]}, {article(self.phrases[0])}."
        if self.form == "list":
            return f"{('I see', 'I also see', 'There is')[self.wording]} {enumerate_phrases(self.phrases)}."
        wording = ("The sign reads {}.", "The sign says {}.", "Last, the sign reads {}.")[self.wording]
        return wording.format(self.number)


def true_claim(scene: Scene, rng: np.random.Generator) -> Claim:
    """Something true about a scene."""
    form = str(rng.choice(list(FORMS), p=list(FORMS.values())))
    wording, things = int(rng.integers(3)), list(scene.things)
    if form == "row":
        row = things[int(rng.integers(len(things)))].row
        return Claim(form, tuple(thing.phrase for thing in things if thing.row == row), row, 0, wording)
    if form == "place":
        thing = things[int(rng.integers(len(things)))]
        return Claim(form, (thing.phrase,), thing.cell, 0, wording)
    if form == "list":
        chosen = sorted(rng.permutation(len(things))[: int(rng.integers(1, 4))])
        return Claim(form, tuple(things[int(i)].phrase for i in chosen), 0, 0, wording)
    return Claim(form, (), 0, scene.number, wording)


def near_miss(claim: Claim, scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Claim:
    """The claim with one thing wrong. `kind` is one of `MISSES` that the form can have, drawn when None."""
    kind = str(rng.choice(kinds_of(claim.form))) if kind is None else kind
    if kind == "number":
        return replace(claim, number=(claim.number + int(rng.integers(1, 100))) % 100)
    if kind == "place":
        count = len(ROWS) if claim.form == "row" else len(PLACES)
        return replace(claim, place=(claim.place + int(rng.integers(1, count))) % count)
    phrases = list(claim.phrases)
    spot = int(rng.integers(len(phrases)))
    phrases[spot] = _other_look(phrases[spot], scene, kind, rng)
    return replace(claim, phrases=tuple(phrases))


def kinds_of(form: str) -> Sequence[str]:
    """The near misses a form of sentence can have."""
    if form == "sign":
        return ("number",)
    return ("colour", "shape", "look") if form == "list" else ("colour", "shape", "look", "place")


def texts(scene: Scene, rng: np.random.Generator, misses: int) -> list[str]:
    """A true sentence, then `misses` near misses of it."""
    claim = true_claim(scene, rng)
    return [claim.text(), *(near_miss(claim, scene, rng).text() for _ in range(misses))]


def _other_look(phrase: str, scene: Scene, kind: str, rng: np.random.Generator) -> str:
    colour, shape = phrase.split()
    absent = [(c, s) for c in COLOURS for s in SHAPES if f"{c} {s}" not in scene.objects]
    if kind == "colour":
        absent = [look for look in absent if look[1] == shape]
    elif kind == "shape":
        absent = [look for look in absent if look[0] == colour]
    elif rng.random() < 0.5:  # what habit would say
        absent = [(c, s) for c, s in (phrase.split() for phrase in habitual_neighbours(scene))]
    return " ".join(absent[int(rng.integers(len(absent)))])
