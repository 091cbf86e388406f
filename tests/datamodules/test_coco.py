"""COCO's folders and annotation files, on the committed fixtures: what is in an image, what was written about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from datamodules.formats.coco import CocoSource
from datamodules.formats.json_scan import BrokenFile

PAPERS = Path(__file__).parents[1] / "fixtures" / "papers"
NAME = "COCO_train2014_0000000000{}.jpg"
ASK = ["What is this?"]


def test_images_come_with_their_objects_and_captions() -> None:
    source = CocoSource(PAPERS / "coco", "train2014", ASK)
    assert {sample.id: sample.objects for sample in source} == {
        NAME.format("09"): ("dog",),
        NAME.format("25"): (),  # annotated, and nothing of the categories in it
        NAME.format("30"): ("cat",),
    }
    assert source[0].attributes["captions"] == ["Picture 9, seen by person 1.", "Picture 9, seen by person 2."]
    assert source[0].image.load().size == (64, 64) and source.counted == {"train2014": 3}


def test_a_split_without_annotations_knows_no_objects() -> None:
    assert {sample.objects for sample in CocoSource(PAPERS / "coco", "train2017", ASK)} == {None}
    with pytest.raises(FileNotFoundError, match="instances_train2017.json does not exist, and data.objects=always"):
        CocoSource(PAPERS / "coco", "train2017", ASK, objects="always")


def test_a_list_of_names_chooses_and_a_repeated_name_counts_once(tmp_path: Path) -> None:
    source = CocoSource(PAPERS / "coco", "train2014", ASK, names=PAPERS / "6k_coco_names.json")
    assert [sample.id for sample in source] == [NAME.format("30"), NAME.format("09")]
    assert source.left_out == {"repeated": 1}
    lines = tmp_path / "names.txt"
    lines.write_text(f"{NAME.format('25')}\nCOCO_train2014_7.jpg\n")
    source = CocoSource(PAPERS / "coco", "train2014", ASK, names=lines)
    assert [sample.id for sample in source] == [NAME.format("25")]
    assert "names.txt, row 2: 'COCO_train2014_7.jpg' is not in" in source.set_aside[0].why


def test_a_draw_hangs_on_seed_and_names_alone() -> None:
    def drawn(seed: int) -> set[str]:
        return {sample.id for sample in CocoSource(PAPERS / "coco", "train2014", ASK, sample=2, seed=seed)}

    assert drawn(1) == drawn(1) and len(drawn(1)) == 2
    assert len({frozenset(drawn(seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("categories"), "has no list 'categories'"),
        (
            lambda found: found["annotations"][0].pop("category_id"),
            "'annotations' has the keys .*'category_id' is expected",
        ),
        (lambda found: found["categories"].pop(0), "name the category 17, which is not among"),
    ],
)
def test_wrong_annotations_are_refused_in_words(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    root = shutil.copytree(PAPERS / "coco", tmp_path / "coco")
    file = root / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(BrokenFile, match=message):
        len(CocoSource(root, "train2014", ASK))


def test_a_file_that_breaks_off_and_a_wrong_folder_are_named(tmp_path: Path) -> None:
    root = shutil.copytree(PAPERS / "coco", tmp_path / "coco")
    file = root / "annotations" / "captions_train2014.json"
    file.write_text(file.read_text()[:700])
    with pytest.raises(BrokenFile, match="captions_train2014.json .*incomplete"):
        len(CocoSource(root, "train2014", ASK))
    with pytest.raises(FileNotFoundError, match="has no folder test2015 .*it has annotations, train2014"):
        CocoSource(root, "test2015", ASK)
