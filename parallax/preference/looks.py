"""Further columns of an objective: an answer of the pair scored once more, beside another image.

Plain preference learning can be satisfied from text alone. Terms in which only the image differs prevent it (mDPO,
arXiv 2406.11839; CHiP, arXiv 2501.16629; SymMPO, arXiv 2506.11712). An objective that has such a term says so by `looks`; for
each of them the data bring the answer beside that image, the policy and the reference score it, and the objective gets log-probs
of shape (batch, 1 + K + L): the pair's own answers under its own image first, then one column for each look.

What a look shows belongs to the pair: a view is drawn once from the sample's seed, and a partner is found by the pairs' ids. So
the reference's log-probs of a look are kept like those of the answers themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from augment.registry import spec_of
from augment.view import View, generator_for
from parallax.records import PreferencePair, ViewSpec, fingerprint, seed_for

LONGEST_SEARCH = 64  # steps along a circle; one that holds the same image so often is given up


@dataclass(frozen=True)
class Look:
    """One further column.

    Attributes:
        response: whose tokens are scored: the pair's chosen answer, its (first) rejected one, or the partner's chosen one.
        image: beside which image: the pair's own, a view of it, or the partner's.
        view: what is done to the image where `image` is "view".
        purpose: names the seed of the view, so that two looks with the same purpose show the same picture.
    """

    response: Literal["chosen", "rejected", "partner"] = "chosen"
    image: Literal["own", "view", "partner"] = "view"
    view: View | None = None
    purpose: str = "look"

    def __post_init__(self) -> None:
        if (self.view is None) == (self.image == "view"):
            raise ValueError(
                f"a look at image={self.image!r} was given the view {self.view!r}: a view belongs to image='view'"
            )

        if self.view is not None and self.view.name == "no_image":
            raise ValueError(
                "log-probs beside the view no_image are not offered: choose a view that shows a picture (aug=black)"
            )

    @property
    def same_question(self) -> bool:
        """Whether the partner must have been asked the same question: its answer is scored here."""
        return self.response == "partner"

    @property
    def shown(self) -> tuple[str, View | None, str]:
        """What names the picture. Looks at the same picture share one prompt."""
        return self.image, self.view, self.purpose if self.image == "view" else ""

    def spec(self, seed: int, sample_id: str) -> ViewSpec:
        """The view of a sample's image, drawn from the sample's own seed."""
        if self.view is None:
            return ViewSpec()
        own = seed_for(seed, sample_id, self.purpose)
        return spec_of(self.view.draw(generator_for(own), 0), own)


def groups_of(looks: Sequence[Look]) -> list[tuple[Look, ...]]:
    """Neighbours that look at the same picture, in order: each group is scored behind one prompt."""
    groups: list[list[Look]] = []
    for look in looks:
        if groups and groups[-1][0].shown == look.shown:
            groups[-1].append(look)
        else:
            groups.append([look])
    return [tuple(group) for group in groups]


def partners(
    pairs: Sequence[PreferencePair], ids: Sequence[str], seed: int, *, same_question: bool
) -> list[int | None]:
    """For each pair the place of another one with another image; None where there is none.

    Pairs that share a question stand in a circle, in an order drawn from their ids; a partner is the next one along that has
    another image and, where its answer counts, another chosen answer. Without `same_question` a pair that finds none there
    takes the next one of all. Neither the order of the pairs nor the number of processes matters.
    """
    drawn = [fingerprint([seed, "partner", name]) for name in ids]
    images = [pair.image.digest() for pair in pairs]
    everybody = sorted(range(len(pairs)), key=drawn.__getitem__)
    circles: dict[str, list[int]] = defaultdict(list)
    for place in everybody:
        circles[pairs[place].prompt].append(place)

    def fits(place: int, other: int) -> bool:
        differ = not same_question or pairs[other].chosen.text != pairs[place].chosen.text
        return images[other] != images[place] and differ

    found = _next_in(circles.values(), fits)
    if not same_question:
        found = {**_next_in([everybody], fits), **found}
    return [found.get(place) for place in range(len(pairs))]


def _next_in(circles: Iterable[Sequence[int]], fits: Callable[[int, int], bool]) -> dict[int, int]:
    found: dict[int, int] = {}
    for circle in circles:
        for number, place in enumerate(circle):
            others = (circle[(number + step) % len(circle)] for step in range(1, min(len(circle), LONGEST_SEARCH)))
            first = next((other for other in others if fits(place, other)), None)
            if first is not None:
                found[place] = first
    return found
