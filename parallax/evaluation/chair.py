"""CHAIR: how many of the objects a description mentions are not in the image (Rohrbach et al., 2018, section 2).

    CHAIR-i = hallucinated object mentions / all object mentions
    CHAIR-s = descriptions with at least one hallucinated object / descriptions
    recall  = objects of the image that are mentioned / objects of the image

Which words count as mentions is decided by the caller: a function from text to a list of object names. What happens to
repeated words differs between published copies of the metric, so the two ways of counting have names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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
