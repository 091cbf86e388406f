"""Words of a description in the singular. English, by rules and a list of exceptions; no model and no dictionary to fetch."""

from __future__ import annotations

import re

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
