"""`data=shapes` as samples: stable ids, images drawn on demand, balanced yes/no questions."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter

import pytest

from datamodules.shapes import questions
from datamodules.shapes.source import POPE_CATEGORIES, ShapesSource, pope_questions
from parallax.records.sample import ImageRef


def test_samples_carry_truth_and_kinds_take_turns() -> None:
    source = ShapesSource("tune_habit_free", 20, seed=2, kinds=questions.KINDS)
    assert len(source) == 20 and [s.kind for s in source] == [*questions.KINDS, *questions.KINDS]
    for sample in source:
        assert sample.answer and sample.objects and sample.attributes["scene"]["things"]
        json.dumps(dict(sample.attributes))


def test_a_part_of_a_split_equals_the_same_part_of_the_whole() -> None:
    whole = ShapesSource("eval_habitual", 12, kinds=("describe", "where"))
    part = ShapesSource("eval_habitual", 5, kinds=("describe", "where"), start=7)
    assert list(whole)[7:] == list(part)
    assert whole[-1] == whole[11]


def test_ids_are_unique_over_splits_seeds_and_kinds() -> None:
    ids = [
        sample.id
        for split in ("eval_habitual", "tune_habit_free")
        for seed in (0, 1)
        for kinds in (("describe",), ("where",))
        for sample in ShapesSource(split, 5, seed, kinds)
    ]
    assert len(set(ids)) == len(ids)


def test_images_are_references_that_draw_and_have_digests_by_content() -> None:
    one, other = (ShapesSource("pairs_habit_free", 2)[i].image for i in (0, 1))
    assert isinstance(one, ImageRef) and one.describe() == "shapes:pairs_habit_free:0"
    assert one.digest() == pickle.loads(pickle.dumps(one)).digest() != other.digest()
    assert one.load().size == (96, 96) and one.load().mode == "RGB"
    assert one.load().tobytes() == one.load().tobytes() != other.load().tobytes()


def test_bad_sources_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="kinds=.*smell.* is not allowed"):
        ShapesSource("eval_habitual", 5, kinds=("smell",))
    with pytest.raises(ValueError, match="size=-1 is not allowed"):
        ShapesSource("eval_habitual", -1)
    with pytest.raises(IndexError):
        ShapesSource("eval_habitual", 3)[3]


def test_pope_questions_are_balanced_true_and_of_three_categories() -> None:
    asked = pope_questions("eval_habit_free", 40, seed=1)
    assert Counter((s.attributes["category"], s.answer) for s in asked) == {
        (category, answer): 40 for category in POPE_CATEGORIES for answer in ("Yes.", "No.")
    }
    for sample in asked:
        phrase = next(f"{c} {s}" for c in questions.COLOURS for s in questions.SHAPES if f"{c} {s}" in sample.question)
        assert (phrase in sample.objects) == (sample.answer == "Yes.") == (sample.attributes["label"] == "yes")
    assert len({s.id for s in asked}) == len(asked)


def test_the_world_needs_no_torch() -> None:
    code = (
        "import sys; from datamodules.shapes.source import ShapesSource;"
        "ShapesSource('base_train', 1)[0].image.load(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
