"""The built-in world's scenes: the same arguments give the same scene, splits never meet, habits are as stated."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from datamodules.shapes import draw
from datamodules.shapes.scene import COLOURS, FOLLOWS, SHAPES, SPLITS, USUAL_COLOUR, Scene, scene


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_a_scene_depends_only_on_split_index_and_seed(split: str) -> None:
    first = [scene(split, index, 3) for index in range(5)]
    assert first == [scene(split, index, 3) for index in reversed(range(5))][::-1]
    assert first != [scene(split, index, 4) for index in range(5)]


def test_splits_of_different_purpose_share_no_scene_content() -> None:
    seen: dict[str, set[str]] = {}
    for split, (group, _) in SPLITS.items():
        seen.setdefault(group, set()).update(scene(split, index).content() for index in range(400))
    groups = sorted(seen)
    for position, group in enumerate(groups):
        for other in groups[position + 1 :]:
            assert not seen[group] & seen[other]


def test_things_are_in_reading_order_in_their_own_cells_and_named_once() -> None:
    for index in range(200):
        made = scene("base_train", index)
        cells = [thing.cell for thing in made.things]
        assert cells == sorted(set(cells)) and made.sign_cell not in cells
        assert 3 <= len(cells) <= 5 and len(set(made.objects)) == len(cells)
        assert 0 <= made.number <= 99


def test_habitual_scenes_keep_their_habits_and_habit_free_scenes_have_none() -> None:
    shares = {}
    for split in ("base_train", "eval_habit_free"):
        things = [scene(split, index).things for index in range(600)]
        usual = np.mean([t.colour == USUAL_COLOUR[t.shape] for row in things for t in row])
        follows = np.mean([b.shape == FOLLOWS[a.shape] for row in things for a, b in pairwise(row)])
        shares[split] = (usual, follows)
    assert shares["base_train"][0] > 0.8 and shares["base_train"][1] > 0.65
    assert shares["eval_habit_free"][0] < 0.22 and shares["eval_habit_free"][1] < 0.22


def test_every_look_is_equally_likely_without_habit() -> None:
    counts = Counter(name for index in range(900) for name in scene("eval_habit_free", index).objects)
    assert len(counts) == len(SHAPES) * len(COLOURS)
    assert max(counts.values()) < 1.6 * min(counts.values())


def test_a_recipe_survives_json() -> None:
    made = scene("tune_habit_free", 7)
    assert Scene.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_unknown_splits_and_negative_indices_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no split 'evaluation'.*eval_habit_free"):
        scene("evaluation", 0)
    with pytest.raises(ValueError, match="negative"):
        scene("base_train", -1)


def test_a_picture_is_painted_the_same_twice_and_shows_the_colours() -> None:
    made = scene("base_train", 11)
    picture = draw.render(made)
    assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, draw.render(Scene.from_json(made.to_json())))
    for thing in made.things:
        row, column = thing.row * 32 + 16 + thing.dy, thing.column * 32 + 16 + thing.dx
        shift = picture[row, column].astype(int) - np.array(draw.PALETTE[thing.colour])
        assert np.abs(shift).max() <= draw.SHADE + 1  # the middle of every shape is filled


def test_every_number_has_its_own_sign_and_stays_inside_it() -> None:
    signs = {number: draw.sign_masks(number)[1].tobytes() for number in range(100)}
    assert len(set(signs.values())) == 100


def test_an_unknown_shape_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no outline.*'blob'"):
        draw.shape_mask("blob", 20)
