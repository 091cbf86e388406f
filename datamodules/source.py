"""The base of data sources: samples in order, and an account of what was read. What a source does not say has a default here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from parallax.records import PreferencePair, Sample
from parallax.records.skipped import SetAside
from parallax.settings.part import Part


class Source(Part, Sequence[Sample]):
    """Samples with stable ids, read when first asked for.

    Attributes:
        name: how the source is called.
        rows: rows looked at; None where there are none. Each is used, in `set_aside` (it is faulty), or counted in `left_out`
            (it is fine, but not asked for).
        counted: rows of each file, or images of each folder, by name, where it was read to its end.
        available: dialogues of each part that is sampled from.
    """

    has_answers: ClassVar[bool] = True  # else images and questions alone
    holds_pairs: ClassVar[bool] = False  # ready-made pairs: nothing is proposed
    name: str = "source"
    rows: int | None = None
    set_aside: Sequence[SetAside] = ()
    left_out: Mapping[str, int] = {}
    counted: Mapping[str, int] = {}
    available: Mapping[str, int] = {}

    @property
    def pairs(self) -> Sequence[PreferencePair] | None:
        """Ready-made pairs; None for a source of samples."""
        return None


class Given(Source):
    """Samples that are there already."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.name = samples, type(samples).__name__

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        return self.samples[place]


def as_source(samples: Sequence[Sample]) -> Source:
    """The samples as a source, which they may be already. Raises TypeError for what is neither a source nor a list."""
    if not isinstance(samples, Sequence):
        raise TypeError(
            f"{type(samples).__name__} is no source: give a list of samples, or derive it from datamodules.source.Source"
        )
    return samples if isinstance(samples, Source) else Given(samples)
