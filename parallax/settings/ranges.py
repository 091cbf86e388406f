"""Words for annotations: what an argument of a part, or a key of a group, may hold. Said where the argument stands.

    def __init__(self, beta: Positive, norm: Literal["sum", "mean"], limit: Count | None = None) -> None: ...

The check of a configuration, the documentation and the part itself read the same annotation (`annotated_rules`). Anything that
`annotated-types` can say may be written out: `Annotated[int, Interval(ge=0, le=999)]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Len


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text that matches a regular expression as a whole; `words` say it to people."""

    expression: str
    words: str


@dataclass(frozen=True, init=False)
class OneOf:
    """One of some words, given one by one or as the names in a constant: `OneOf("auto", *FORMATS)`, `OneOf(FORMATS)`."""

    words: tuple[str, ...]

    def __init__(self, *words: str | Iterable[str]) -> None:
        each = [[word] if isinstance(word, str) else list(word) for word in words]
        object.__setattr__(self, "words", tuple(word for group in each for word in group))


@dataclass(frozen=True, slots=True)
class Exists:
    """A path that must be there before anything is loaded. `kind` says what else it may be, or what it must be."""

    kind: Literal["path", "file", "folder", "images", "rows or hub", "model", "prompts"] = "path"


@dataclass(frozen=True, slots=True)
class Ascending:
    """A list whose items do not fall: [smallest, largest]."""


@dataclass(frozen=True, slots=True)
class NamedIn:
    """A part that may also be given by its name, or by `{name: …, arguments}`: a choice of this group of conf/."""

    group: str


@dataclass(frozen=True, slots=True)
class Of:
    """A part that must be of this class, given by its dotted path: for annotations that must not import it."""

    target: str


Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
Count = Annotated[int, Ge(1)]  # of anything
Natural = Annotated[int, Ge(0)]
AnyText = Annotated[str, Len(0)]  # a text that may be empty; a plain `str` may not
Name = Annotated[str, Pattern(r"[A-Za-z_]\w*", "a name of letters, digits and _")]
FileName = Annotated[str, Pattern(r"[A-Za-z0-9][\w.\-]*", "a name of letters, digits, _, - and .")]
Negatives = Annotated[int, Interval(ge=1, le=64)]  # K, rejected answers of a pair
Temperature = Annotated[float, Interval(ge=0, le=10)]  # 0 is greedy
PositiveTemperature = Annotated[float, Interval(gt=0, le=10)]
Texts = str | Sequence[str]  # one, or several to draw from
ExistingPath = Annotated[Path | str, Exists()]
ExistingFile = Annotated[str, Exists()]  # the same where the code takes a text
Folder = Annotated[Path | str, Exists("folder")]
RowsFile = Annotated[Path | str, Exists("file")]
ImageFolder = Annotated[Path | str, Exists("images")]
RowsOrHub = Annotated[
    Path | str, Exists("rows or hub")
]  # files of rows, or a data set of the Hugging Face hub, owner/name
ModelPath = Annotated[str, Exists("model")]  # a folder with a model, or a name on the hub
PromptFile = Annotated[str, Exists("prompts")]  # a file of conf/prompts by its name, or the path of one
