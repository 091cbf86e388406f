"""Compressed files, answers with a label, messages of one speaker in a row, and Parquet with pictures inside and beside."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from datamodules.formats.preference_file import PreferenceFileSource

IMAGE = "gqa/images/1.jpg"
ROW = {"image": IMAGE, "prompt": "What?", "chosen": "A tower.", "rejected": "A cat."}


def texts(source: PreferenceFileSource) -> list[tuple[str, str]]:
    return [(pair.chosen.text, pair.rejected[0].text) for pair in source.pairs]


@pytest.mark.parametrize(("ending", "packed"), [("gz", gzip.open), ("bz2", bz2.open), ("xz", lzma.open)])
@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data.csv"])
def test_compressed_files_are_read(root: Path, tmp_path: Path, name: str, ending: str, packed: Any) -> None:
    text = {
        "data.json": json.dumps([ROW, ROW]),
        "data.jsonl": f"{json.dumps(ROW)}\n" * 2,
        "data.csv": f"{','.join(ROW)}\n" + f"{','.join(ROW.values())}\n" * 2,
    }[name]
    (tmp_path / "set").mkdir()
    with packed(tmp_path / "set" / f"{name}.{ending}", "wb") as stream:
        stream.write(text.encode())
    for path in (tmp_path / "set" / f"{name}.{ending}", tmp_path / "set"):
        assert texts(PreferenceFileSource(path, root)) == [("A tower.", "A cat.")] * 2


def test_a_compressed_shard_shows_its_pictures(root: Path, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(json.dumps({key: value for key, value in ROW.items() if key != "image"}))
    with tarfile.open(tmp_path / "shard.tar.gz", "w:gz") as shard:
        shard.add(root / IMAGE, "1.jpg")
        shard.add(tmp_path / "1.json", "1.json")
    (pair,) = PreferenceFileSource(tmp_path / "shard.tar.gz").pairs
    assert pair.image.load().size == Image.open(root / IMAGE).size


def test_answers_with_a_label_are_paired_by_their_question(root: Path, write_json: Any) -> None:
    def judged(answer: str, label: bool, prompt: str = "What?") -> dict[str, Any]:
        return {"image": IMAGE, "prompt": prompt, "completion": answer, "label": label}

    rows = [judged("A tower.", True), judged("Alone.", True, "Who?"), judged("A cat.", False), judged("A dog.", False)]
    source = PreferenceFileSource(write_json(rows, "kto.jsonl"), root)
    assert texts(source) == [("A tower.", "A cat."), ("A tower.", "A dog.")]
    (alone,) = source.set_aside
    assert alone.reason == "unpaired" and "row 2" in alone.why and "a bad answer" in alone.why
    assert texts(PreferenceFileSource(write_json(rows), root, pairing="best_worst")) == [("A tower.", "A cat.")]
    talk = [
        {"images": [IMAGE], "kto_tag": good, "messages": [{"role": "user", "content": "<image>What?"},
                                                          {"role": "assistant", "content": text}]}
        for text, good in (("A cat.", False), ("A tower.", True))
    ]  # fmt: skip
    assert texts(PreferenceFileSource(write_json(talk), root)) == [("A tower.", "A cat.")]


def test_a_row_of_many_answers_is_set_aside_and_not_squared(root: Path, write_json: Any) -> None:
    def scored(count: int) -> dict[str, Any]:
        return {
            "image": IMAGE,
            "prompt": "What?",
            "completions": [{"response": str(n), "score": n} for n in range(count)],
        }

    def judged(count: int) -> list[dict[str, Any]]:
        return [{"image": IMAGE, "prompt": "Who?", "completion": str(n), "label": n % 2 == 0} for n in range(count)]

    few, many = [scored(64), *judged(89)], [scored(3), scored(20_000), *judged(20_000)]
    assert len(PreferenceFileSource(write_json(few), root)) == 2_016 + 45 * 44
    source = PreferenceFileSource(write_json(many), root)
    assert len(source) == 3 and [item.reason for item in source.set_aside] == ["too_many_answers"] * 2
    assert all("data.pairing=best_worst" in item.why for item in source.set_aside), source.set_aside
    one_each = PreferenceFileSource(write_json(many), root, pairing="best_worst")
    assert texts(one_each) == [("2", "0"), ("19999", "0"), ("0", "1")]


def test_labelled_answers_are_paired_by_pictures_stored_twice(tmp_path: Path, photo: Image.Image) -> None:
    rows = [
        {
            "image": {"bytes": png(photo.rotate(turn)), "path": None},
            "prompt": "What?",
            "completion": text,
            "label": good,
        }
        for turn, text, good in ((0, "A tower.", True), (90, "A moon.", True), (0, "A cat.", False))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "kto.parquet")
    source = PreferenceFileSource(tmp_path / "kto.parquet")
    assert texts(source) == [("A tower.", "A cat.")] and [item.reason for item in source.set_aside] == ["unpaired"]


def test_two_turns_of_one_speaker_are_one(root: Path, write_json: Any) -> None:
    said = [
        ("user", "Look."),
        ("user", "<image>What?"),
        ("assistant", "Hm."),
        ("assistant", "A sky."),
        ("user", "And?"),
    ]
    row = {
        "images": [IMAGE], "rejected_response": "A cat.",
        "messages": [*({"role": role, "content": text} for role, text in said), {"role": "assistant", "content": "A tower."}],
    }  # fmt: skip
    (pair,) = PreferenceFileSource(write_json([row]), root).pairs
    assert [(m.role, m.text) for m in pair.messages] == [
        ("user", "Look.\nWhat?"), ("assistant", "Hm.\nA sky."), ("user", "And?"),
    ]  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
def test_pictures_inside_and_beside_a_parquet_file(
    root: Path, tmp_path: Path, photo: Image.Image, several: bool
) -> None:
    inside, beside = {"bytes": png(photo), "path": "lost.png"}, {"bytes": None, "path": IMAGE}
    pictures = [[inside, beside], [beside], [inside]] if several else [inside, beside, inside]
    rows = [
        {"images" if several else "image": shown, "prompt": "What?", "chosen": "A", "rejected": "B"}
        for shown in pictures
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mixed.parquet", row_group_size=2)
    source = PreferenceFileSource(tmp_path / "mixed.parquet", root)
    sizes = {"inside": photo.size, "beside": Image.open(root / IMAGE).size}
    found = [[image.load().size for image in pair.images] for pair in source.pairs]
    assert not source.set_aside
    assert found == [
        [sizes["inside"], sizes["beside"]] if several else [sizes["inside"]], [sizes["beside"]], [sizes["inside"]],
    ]  # fmt: skip


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
