"""What a datamodule takes as samples: a source, a list, and nothing that only looks like one."""

from __future__ import annotations

import pytest

from datamodules.shapes.source import ShapesSource
from datamodules.source import as_source


def test_a_list_becomes_a_source_and_a_source_stays_itself() -> None:
    shapes = ShapesSource("pairs_habit_free", 3)
    assert as_source(shapes) is shapes
    listed = as_source(list(shapes))
    assert [sample.id for sample in listed] == [sample.id for sample in shapes] and listed.pairs is None


def test_what_only_looks_like_a_list_is_refused_with_what_to_do() -> None:
    class LooksLikeOne:
        def __len__(self) -> int:
            return 0

    with pytest.raises(TypeError, match=r"LooksLikeOne is no source: give a list .* datamodules\.source\.Source"):
        as_source(LooksLikeOne())  # type: ignore[arg-type]
