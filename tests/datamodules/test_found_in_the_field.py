"""What people's files did once, in silence: splits were one set, a system text was dropped, row groups of one row never ended."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from datamodules.formats.columns import ColumnsSource
from datamodules.formats.preference_file import PreferenceFileSource
from parallax.records.pair import PreferencePair

ROW = {"question": "What?", "chosen": "A", "rejected": "B", "image": "a.png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize(("split", "rows"), [("train", 3), ("test", 2), ("all", 5)])
def test_files_named_by_splits_are_not_read_as_one_set(split: str, rows: int, folder: Path) -> None:
    for name, count in (("train-00000-of-00001", 3), ("test-00000-of-00001", 2)):
        (folder / "data").mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist([ROW] * count), folder / "data" / f"{name}.parquet")
    assert len(PreferenceFileSource(folder / "data", folder, split=split)) == rows


def test_a_system_text_beside_the_dialogue_is_part_of_the_prompt(folder: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "What?"}], "chosen": {"from": "gpt", "value": "A"},
           "rejected": {"from": "gpt", "value": "B"}, "system": "Be brief.", "images": ["a.png"]}  # fmt: skip
    (folder / "rows.json").write_text(json.dumps([row]))
    (pair,) = PreferenceFileSource(folder / "rows.json", folder).pairs
    first = pair.conversation.messages[0]
    assert (first.role, first.text) == ("system", "Be brief.")


def test_row_groups_of_one_row_take_no_longer_than_one_group(folder: Path) -> None:
    rows = [
        {**ROW, "question": f"What {number}?", "image": {"bytes": (folder / "a.png").read_bytes(), "path": None}}
        for number in range(2000)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=1)
    began = time.monotonic()
    source = ColumnsSource(str(folder / "rows.parquet"), {"image": "image", "question": "question"})
    assert len(list(source)) == 2000 and time.monotonic() - began < 15


@pytest.mark.parametrize("form", ["alone", "uri", "bytes"])
def test_a_small_picture_written_out_is_read(form: str, folder: Path) -> None:
    text = base64.b64encode((folder / "a.png").read_bytes()).decode()
    assert len(text) < 200
    image = {"alone": text, "uri": f"data:;base64,{text}", "bytes": {"bytes": text, "path": None}}[form]
    (folder / "rows.jsonl").write_text(json.dumps({**ROW, "image": image}))
    (pair,) = PreferenceFileSource(folder / "rows.jsonl", folder).pairs
    assert pair.images[0].load().size == (4, 4)


def test_a_number_under_image_id_does_not_hide_the_path(folder: Path) -> None:
    row = {key: value for key, value in ROW.items() if key != "image"} | {"image_id": 7, "image_path": "a.png"}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    (pair,) = PreferenceFileSource(folder / "rows.jsonl", folder).pairs
    assert pair.images[0].describe() == "a.png"


def test_a_folder_with_a_list_of_sets_is_read_by_that_list(folder: Path) -> None:
    """MMPR as it is downloaded: the list beside the folders of rows and of images."""

    def asked(pair: PreferencePair) -> str:
        return pair.conversation.readable()

    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    (folder / "a.png").rename(folder / "images" / "a.png")
    sets = {
        name: {"root": "images", "annotation": f"/theirs/annotations/{name}.jsonl", "repeat_time": 1}
        for name in ("temples", "ships")
    }
    (folder / "meta.json").write_text(json.dumps(sets))
    for name in sets:
        (folder / "annotations" / f"{name}.jsonl").write_text(json.dumps({**ROW, "question": f"Which {name}?"}) + "\n")
    whole = PreferenceFileSource(folder)
    assert {asked(pair) for pair in whole.pairs} == {"Which temples?", "Which ships?"}
    assert [asked(pair) for pair in PreferenceFileSource(folder, subset="sh*").pairs] == ["Which ships?"]
