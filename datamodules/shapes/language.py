"""How the world is put into words, and how words about it are read back: descriptions, the object parser, answer checks.

Descriptions come in four manners. `row_description` is the standard one (one sentence per row of the picture, one for
the sign); `stepwise_description` names places one after another; `free_description` lists; `imagined_description` adds
what usually goes with the things seen, which is exactly what a careful describer must not do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datamodules.shapes.scene import CELLS, COLOURS, FOLLOWS, SHAPES, USUAL_COLOUR, Scene

ROWS = ("top", "middle", "bottom")
PLACES = tuple(
    f"{'in' if cell == 'centre' else 'on' if cell in ('left', 'right') else 'at'} the {cell}" for cell in CELLS
)
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")

_MENTION = re.compile(
    rf"(?P<no>\bno\s+|\bnot\s+an?\s+)?\b(?P<colour>{'|'.join(COLOURS)})\s+(?P<shape>{'|'.join(SHAPES)})(?:e?s)?\b",
    re.IGNORECASE,
)


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def enumerate_phrases(phrases: Sequence[str]) -> str:
    """`["red circle", "blue star"]` → `a red circle and a blue star`."""
    named = [article(phrase) for phrase in phrases]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def row_description(scene: Scene) -> str:
    """The standard description: a sentence for each row that holds something, in reading order, and one for the sign."""
    sentences = []
    for row, name in enumerate(ROWS):
        phrases = [thing.phrase for thing in scene.things if thing.row == row]
        if phrases:
            sentences.append(f"The {name} row has {enumerate_phrases(phrases)}.")
    return " ".join([*sentences, f"The sign reads {scene.number}."])


def stepwise_description(scene: Scene) -> str:
    """Place by place: `First, at the top left, a red circle. Then, in the centre, … Last, the sign reads 42.`"""
    steps = [
        f"{'Then' if i else 'First'}, {PLACES[thing.cell]}, {article(thing.phrase)}."
        for i, thing in enumerate(scene.things)
    ]
    return " ".join([*steps, f"Last, the sign reads {scene.number}."])


def free_description(scene: Scene) -> str:
    """A list in two breaths, without places: `I see a red circle and a blue star. I also see … The sign says 42.`"""
    phrases = [thing.phrase for thing in scene.things]
    parts = [f"I see {enumerate_phrases(phrases[:2])}."]
    if phrases[2:]:
        parts.append(f"I also see {enumerate_phrases(phrases[2:])}.")
    return " ".join([*parts, f"The sign says {scene.number}."])


def imagined_description(scene: Scene) -> str:
    """What is there, followed by two things that usually go with it but are not there."""
    absent = habitual_neighbours(scene)[:2]
    return (
        f"I see {enumerate_phrases([t.phrase for t in scene.things])}. There might also be {enumerate_phrases(absent)}."
    )


def habitual_neighbours(scene: Scene) -> list[str]:
    """Absent things that habitually go with what is there, the most tempting first.

    For each thing: the usual colour of its shape, its habitual follower and the one it habitually follows.
    """
    before = {after: shape for shape, after in FOLLOWS.items()}
    tempting: list[str] = []
    for link in (lambda s: FOLLOWS[s], lambda s: s, lambda s: before[s]):
        for thing in scene.things:
            shape = link(thing.shape)
            phrase = f"{USUAL_COLOUR[shape]} {shape}"
            if phrase not in scene.objects and phrase not in tempting:
                tempting.append(phrase)
    for shape in SHAPES:  # a scene that already holds everything usual: any unusual look of its shapes will do
        for colour in COLOURS:
            phrase = f"{colour} {shape}"
            if len(tempting) < 2 and phrase not in scene.objects and phrase not in tempting:
                tempting.append(phrase)
    return tempting


def corrupted(scene: Scene, rng: np.random.Generator, changes: int) -> Scene:
    """The scene as a poor observer would report it: `changes` things (at most all) replaced by things that are absent."""
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in scene.objects]
    things = list(scene.things)
    wrong = rng.permutation(len(absent))[:changes]
    for position, pick in zip(rng.permutation(len(things))[:changes], wrong, strict=False):
        colour, shape = absent[int(pick)].split()
        things[int(position)] = replace(things[int(position)], colour=colour, shape=shape)
    return replace(scene, things=tuple(things))


def mentioned_objects(text: str) -> list[str]:
    """Every object a text claims to see, in order, repeats kept: each colour directly followed by a shape.

    Plurals count as one mention; a thing that is denied (`no red circle`, `not a red circle`) does not count.
    """
    return [name for _, name in object_spans(text)]


def object_spans(text: str) -> list[tuple[slice, str]]:
    """Where in a text each object it claims to see stands, and its name, as `mentioned_objects` gives it."""
    found = (m for m in _MENTION.finditer(text) if not m["no"])
    return [(slice(*m.span()), f"{m['colour'].lower()} {m['shape'].lower()}") for m in found]


def same_answer(kind: str, prediction: str, truth: str) -> bool:
    """Whether a free-text answer gives the true answer to a question of this kind.

    Yes/no kinds: the first yes or no decides. `colour`, `count`, `where`, `number`: the first word of the right sort
    decides. Descriptions: the same objects are mentioned. Any other kind: equal text, ignoring case, spaces and full stop.
    """
    readers = {
        "exist": _yes_no, "pope": _yes_no, "relation": _yes_no, "colour": _colour, "count": _count, "where": _where,
        "number": _number, "judge": _verdict,
    }  # fmt: skip
    if kind in ("describe", "stepwise", "free", "imagine"):
        return set(mentioned_objects(prediction)) == set(mentioned_objects(truth))
    read = readers.get(kind, _plain)
    said = read(prediction)
    return said is not None and said == read(truth)


def _yes_no(text: str) -> str | None:
    found = re.search(r"\b(yes|no|not)\b", text.lower())
    return None if found is None else "yes" if found[1] == "yes" else "no"


def _colour(text: str) -> str | None:
    found = re.search(rf"\b({'|'.join(COLOURS)})\b", text.lower())
    return found[1] if found else None


def _count(text: str) -> int | None:
    found = re.search(rf"\b({'|'.join(NUMBER_WORDS)}|none|\d+)\b", text.lower())
    if found is None:
        return None
    word = found[1]
    return int(word) if word.isdigit() else 0 if word == "none" else NUMBER_WORDS.index(word)


def _where(text: str) -> str | None:
    lowered = (
        text.lower().replace("-", " ").replace("upper", "top").replace("lower", "bottom").replace("middle", "centre")
    )
    found = re.search(rf"\b({'|'.join(sorted(CELLS, key=len, reverse=True))}|center)\b", lowered)
    return None if found is None else found[1].replace("center", "centre")


def _number(text: str) -> int | None:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else None


def _verdict(text: str) -> str | None:
    found = re.search(r"\[\[\s*([12])\s*\]\]", text)
    return found[1] if found else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
