"""Words for annotations: what an argument of a part, or a key of a group, may hold. Said where the argument stands.

    def __init__(self, beta: Positive = 0.1, norm: Literal["sum", "mean"] = "sum", limit: Count | None = None) -> None: ...

The check of a configuration, the documentation and the part itself read the same annotation (`annotated_rules`). Anything that
`annotated-types` can say may be written out: `Annotated[int, Interval(ge=0, le=999)]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Len


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text that matches a regular expression as a whole; `words` say it to people."""

    expression: str
    words: str


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
Negatives = Annotated[int, Interval(ge=1, le=64)]  # K, rejected answers of a pair
Temperature = Annotated[float, Interval(ge=0, le=10)]  # 0 is greedy
Texts = str | Sequence[str]  # one, or several to draw from
