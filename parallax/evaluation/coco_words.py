"""Which COCO objects a text mentions: the word rules of CHAIR (Rohrbach et al., 2018, section 2), with any table of synonyms.

A table has one object per line, `name, synonym, synonym, …`; the official `synonyms.txt` is of this form. Ours beside this file
is smaller and of our own making: numbers made with it are not comparable with published ones, and a run says which it used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from parallax.records import file_digest
from parallax.settings.ranges import ExistingFile

OWN_TABLE = Path(__file__).with_name("coco_synonyms.txt")
YOUNG_ANIMALS = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)  # fmt: skip
# Pairs of words that are one thing: read as their partner, or as themselves where there is none.
ONE_THING = {"bow tie": "tie", "toilet seat": "toilet", "home plate": "home plate", "train track": "train track"}


@dataclass(frozen=True)
class CocoWords:
    """A table of synonyms, ready to find objects in texts.

    Args:
        names: synonym → name of the object.
        table: which table this is, in words; results made with different ones cannot be compared.
    """

    names: Mapping[str, str]
    table: str = ""

    @classmethod
    def read(cls, path: Path | str | None = None) -> CocoWords:
        """From a file of synonyms; None takes our own table."""
        path = Path(path) if path is not None else OWN_TABLE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; expected a table of synonyms, one object per line: name, synonym, …"
            )
        names: dict[str, str] = {}
        for line in path.read_text("utf-8").splitlines():
            words = [word.strip().lower() for word in line.split(",") if word.strip()]
            for word in words:
                names[word] = words[0]
        if not names:
            raise ValueError(f"{path} holds no synonyms; expected one object per line: name, synonym, …")
        own = path == OWN_TABLE
        return cls(names, "our own table" if own else f"{path.name} (SHA-256 {file_digest(path)[:12]})")

    def __call__(self, text: str) -> list[str]:
        """Names of the objects a text mentions, in order, repeats kept."""
        words = self._joined([singular(word) for word in tokens(text)])
        if "toilet" in words:  # the seat of a toilet is no chair
            words = [word for word in words if word != "seat"]
        return [self.names[word] for word in words if word in self.names]

    def objects(self, categories: Sequence[str], captions: Sequence[str]) -> tuple[str, ...]:
        """The objects of an image: its annotated categories and whatever people's captions mention, each once.

        Raises:
            KeyError: for a category that the table does not know.
        """
        found = [self.names[category.lower()] for category in categories]
        found += [name for caption in captions for name in self(caption)]
        return tuple(dict.fromkeys(found))

    def _joined(self, words: Sequence[str]) -> list[str]:
        """Neighbouring words that are one thing put together, the longest first: three, two, one."""
        joined, place = [], 0
        while place < len(words):
            for length in (4, 3, 2):
                phrase = " ".join(words[place : place + length])
                thing = self._thing(phrase) if place + length <= len(words) else None
                if thing is not None:
                    joined.append(thing)
                    place += length
                    break
            else:
                joined.append(words[place])
                place += 1
        return joined

    def _thing(self, phrase: str) -> str | None:
        if phrase in ONE_THING:
            return ONE_THING[phrase]
        if phrase in self.names:
            return phrase
        first, _, rest = phrase.partition(" ")
        if (first in ("baby", "adult") and rest in YOUNG_ANIMALS) or (
            first == "passenger" and rest in ("jet", "train")
        ):
            return rest
        return None


def coco_words(path: ExistingFile | None = None) -> CocoWords:
    """`CocoWords.read`, as a configuration names it."""
    return CocoWords.read(path)


IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "geese": "goose",
    "mice": "mouse", "oxen": "ox", "knives": "knife", "wives": "wife", "lives": "life", "leaves": "leaf", "loaves": "loaf",
    "shelves": "shelf", "wolves": "wolf", "calves": "calf", "halves": "half", "scarves": "scarf", "thieves": "thief",
    "policemen": "policeman", "policewomen": "policewoman", "firemen": "fireman", "gentlemen": "gentleman",
    "snowmen": "snowman", "fishermen": "fisherman", "buses": "bus", "busses": "bus", "gases": "gas", "heroes": "hero",
    "shoes": "shoe", "horses": "horse", "houses": "house", "noses": "nose", "cases": "case", "suitcases": "suitcase",
    "vases": "vase", "bases": "base", "roses": "rose", "hoses": "hose", "purses": "purse", "nurses": "nurse",
    "briefcases": "briefcase", "bookcases": "bookcase", "cheeses": "cheese", "movies": "movie", "cookies": "cookie",
    "ties": "tie", "pies": "pie", "smoothies": "smoothie", "selfies": "selfie", "dice": "die", "axes": "axe",
    "racehorses": "racehorse", "warehouses": "warehouse", "doggies": "doggie", "birdies": "birdie", "veggies": "veggie",
    "caches": "cache", "headaches": "headache", "canoes": "canoe", "toes": "toe", "moves": "move", "stoves": "stove",
    "gloves": "glove", "sleeves": "sleeve", "olives": "olive", "waves": "wave", "caves": "cave", "drives": "drive",
}  # fmt: skip
_UNCHANGED = (
    "bus gas lens glass grass dress class cross tennis this is was has his us yes chess bass moss mess less across "
    "focus cactus campus canvas atlas iris oasis analysis sheep deer fish aircraft species scissors pants jeans shorts "
    "sunglasses skis series always perhaps christmas business asparagus citrus virus status news paris address "
    "its ass abs mrs gps "
    "compass process access success kiss boss loss"
)
UNCHANGED = frozenset(_UNCHANGED.split())


def tokens(text: str) -> list[str]:
    """Words and punctuation of a text, in small letters; `'s` is cut off.

    What hyphens and slashes join is one word, as it is to CHAIR's script: `man-made` holds no man, `car/truck` is neither.
    """
    return re.findall(r"[a-z\d]+(?:[-/][a-z\d]+)*|[^\sa-z\d]", re.sub(r"['’]s\b", "", text.lower()))


def singular(word: str) -> str:
    """The singular of a noun; other words mostly stay as they are."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in UNCHANGED or len(word) < 3 or not word.endswith("s") or word.endswith(("ss", "bus")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1]


Counting = Literal["every_mention", "distinct_hallucinations"]
COUNTINGS: tuple[str, ...] = get_args(Counting)


@dataclass(frozen=True, slots=True)
class ChairCounts:
    """What one description contributes."""

    hallucinated: int  # mentions of absent objects, as the counting says
    mentioned: int  # all mentions
    found: int  # distinct objects of the image that are mentioned
    present: int  # distinct objects of the image
    counted: bool  # False: the description is left out


def chair_counts(
    mentioned: Sequence[str], truth: Collection[str], counting: Counting = "every_mention", *, empty: bool = False
) -> ChairCounts:
    """Count one description.

    Args:
        mentioned: object names in the order they are mentioned, repeats kept.
        truth: every object of the image, under the same names.
        counting: `every_mention` counts each mention, above and below the line. `distinct_hallucinations` is what the
            copy used for SIMA's numbers does: a hallucinated word counts once per description above the line, every
            mention counts below it, and empty descriptions are left out altogether.
        empty: whether the description has no text at all.

    Raises:
        ValueError: for a counting that does not exist.
    """
    if counting not in COUNTINGS:
        raise ValueError(f"there is no CHAIR counting {counting!r}; choose {' or '.join(COUNTINGS)}")
    true = set(truth)
    absent = [name for name in mentioned if name not in true]
    distinct = counting == "distinct_hallucinations"
    return ChairCounts(
        hallucinated=len(set(absent)) if distinct else len(absent),
        mentioned=len(mentioned),
        found=len(true.intersection(mentioned)),
        present=len(true),
        counted=not (empty and distinct),
    )


def chair_scores(counts: ChairCounts) -> dict[str, tuple[float, float]]:
    """The counts as (numerator, denominator) of `chair_i`, `chair_s` and `recall`."""
    return {
        "chair_i": (counts.hallucinated, counts.mentioned),
        "chair_s": (float(counts.hallucinated > 0 and counts.counted), float(counts.counted)),
        "recall": (counts.found if counts.counted else 0, counts.present if counts.counted else 0),
    }
