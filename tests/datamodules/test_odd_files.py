"""The same pair in every kind of file, under every usual name, however its picture is named."""

from __future__ import annotations

import base64
import csv
import io
import json
import tarfile
import unicodedata
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import feather, ipc

from datamodules.formats.json_rows import BrokenFile
from datamodules.formats.llava_json import LlavaJsonSource
from datamodules.formats.preference_file import PreferenceFileSource

Row = Mapping[str, Any]
ROW = {"question": "What?", "chosen": 'A "red",\nsquare.', "rejected": "A dog.", "image": "a.png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("odd")
    Image.new("RGB", (8, 8), "red").save(where / "a.png")
    Image.new("RGB", (8, 8), "red").save(where / unicodedata.normalize("NFC", "ü 图.png"))
    return where


def only(path: Path | str, **more: Any) -> None:
    """The file gives the one pair, with a picture that can be opened."""
    source = PreferenceFileSource(path, **more)
    assert not source.set_aside and not source.left_out and len(source) == 1, (source.set_aside, source.left_out)
    (pair,) = source.pairs
    assert (pair.prompt, [r.text for r in pair.rejected]) == ("What?", ["A dog."]) and "square" in pair.chosen.text
    assert pair.image.load().size == (8, 8)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROW, indent=1),
        json.dumps({"version": "1", "data": [ROW]}),
        json.dumps({"train": [ROW], "test": [ROW, ROW]}, indent=1),
        json.dumps({"k1": ROW}),
        json.dumps({key: {"0": value} for key, value in ROW.items()}),
        json.dumps({key: [value] for key, value in ROW.items()}),
        "\ufeff" + json.dumps(ROW) + "\r\n\r\n",
        json.dumps([[ROW]]),
    ],
    ids=["pretty", "data", "splits", "keys", "pandas", "columns", "bom", "nested"],
)
@pytest.mark.parametrize("name", ["one.json", "ONE.JSONL", "one.ndjson", "one"])
def test_rows_are_found_however_a_json_file_holds_them(folder: Path, content: str, name: str) -> None:
    (folder / name).write_text(content, "utf-8")
    only(folder / name)  # pictures beside the file need no image root


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t"), ("d.csv", "|")])
def test_separated_values_keep_quotes_and_line_breaks(folder: Path, name: str, separator: str) -> None:
    stream = io.StringIO()
    rows = csv.DictWriter(stream, ["", *ROW], delimiter=separator)
    rows.writeheader()
    rows.writerow({"": "0", **ROW})
    (folder / name).write_text("\ufeff" + stream.getvalue(), "utf-8", newline="")
    only(folder / name)
    assert PreferenceFileSource(folder / name).pairs[0].chosen.text == ROW["chosen"]
    table = PreferenceFileSource(folder / name).table
    assert [table.row(place) for place in range(len(table))] == list(table.rows())


def test_short_and_long_rows_of_separated_values_are_set_aside(folder: Path) -> None:
    text = "question,chosen,rejected,image\nWhat?,A,B,a.png\nWhat?,A\nWhat?,A,B,a.png,more\n"
    (folder / "rows.csv").write_text(text)
    source = PreferenceFileSource(folder / "rows.csv")
    assert len(source) == 1 and [item.reason for item in source.set_aside] == ["bad_row", "bad_row"]
    assert "5 cells" in source.set_aside[1].why and source.set_aside[1].item == "rows.csv:3"


TURNS = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}]
SAID = {"role": "assistant", "content": "A square."}
NAMED: dict[str, Row] = {
    "query": {"query": "What?", "chosen": "A square.", "rejected": "A dog.", "img": "a.png"},
    "preferred": {"question": "What?", "preferred": "A square.", "dispreferred": "A dog.", "file_name": "a.png"},
    "openai": {"input": {"messages": TURNS}, "preferred_output": [SAID],
               "non_preferred_output": [{"role": "assistant", "content": "A dog."}], "images": '["a.png"]'},
    "lists": {"question": [{"role": "user", "content": "<image>What?"}], "chosen": ["A square."], "rejected": ["A dog."],
              "image": [["a.png"]]},
    "tag": {"messages": [{"role": "user", "content": "<img>a.png</img>What?"}, SAID], "rejected_response": "A dog."},
    "scores": {"prompt": "What?", "responses": ["A dog.", "A square."], "scores": [0.5, 2], "image": "a.png"},
    "preference": {"image": "a.png", "conversations": [{"from": "human", "value": "<image>What?"}], "preference": 1.0,
                   "output_1": {"from": "llava", "value": "A square."}, "output_2": {"from": "llava", "value": "A dog."}},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_rows_are_known_under_other_names(folder: Path, name: str) -> None:
    (folder / "named.json").write_text(json.dumps([NAMED[name]]))
    only(folder / "named.json")


@pytest.mark.parametrize(
    "image",
    [
        "C:\\data\\set\\a.png",
        "set\\a.png",
        "file:///somewhere/else/a.png",
        unicodedata.normalize("NFD", "ü 图.png"),
        "web",
    ],
)
def test_pictures_are_found_as_other_systems_write_their_paths(folder: Path, image: str) -> None:
    if image == "web":  # the alphabet of addresses, without padding
        noise = Image.frombytes("RGB", (8, 8), bytes(range(192)))
        stream = io.BytesIO()
        noise.save(stream, "PNG", pnginfo=None)
        image = base64.urlsafe_b64encode(stream.getvalue() + b"\xfb\xff\xfe" * 40).decode().rstrip("=")
        assert "_" in image
    (folder / "paths.json").write_text(json.dumps([{**ROW, "image": image}]))
    only(folder / "paths.json", image_root=folder)


@pytest.mark.parametrize("image", ["..\\a.png", "C:\\data\\..\\..\\a.png", "https://somewhere/a.png", "/etc/passwd"])
def test_no_spelling_of_a_path_leaves_the_root(folder: Path, image: str) -> None:
    (folder / "inside").mkdir(exist_ok=True)
    (folder / "inside" / "out.json").write_text(json.dumps([{**ROW, "image": image}]))
    for root in (folder / "inside", None):
        source = PreferenceFileSource(folder / "inside" / "out.json", root)
        if source.pairs:  # a file that is looked for below the root, and is not there
            with pytest.raises(Exception, match="missing|leaves"):
                source.pairs[0].image.load()
        else:
            assert source.set_aside[0].reason in ("bad_image", "no_image")


def test_arrow_files_of_both_kinds_are_read(folder: Path) -> None:
    table = pyarrow.Table.from_pylist([{**ROW, "image": (folder / "a.png").read_bytes()}])
    with ipc.new_stream(str(folder / "stream.arrow"), table.schema) as stream:
        stream.write_table(table)
    feather.write_feather(table, str(folder / "file.feather"))
    only(folder / "stream.arrow")
    only(folder / "file.feather")


@pytest.mark.parametrize(
    "names", [("1.jpg", "1.json"), ("1.json", "1.0.png"), ("1.PNG", "1.question.txt", "1.chosen.txt", "1.rejected.txt")]
)
def test_a_shard_needs_no_key_for_its_picture(folder: Path, names: tuple[str, ...]) -> None:
    texts = {"question": "What?", "chosen": "A square.", "rejected": "A dog."}
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for name in names:
            word = name.split(".")[1]
            data = (
                json.dumps(texts).encode()
                if word == "json"
                else texts[word].encode()
                if word in texts
                else (folder / "a.png").read_bytes()
            )
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    only(folder / "shard.tar")


@pytest.mark.parametrize("pattern", ["glob/*.jsonl", "glob/**/*.jsonl", "gl?b/deep/[ab].jsonl", "gl*/deep/a*"])
def test_a_pattern_stands_for_files(folder: Path, pattern: str) -> None:
    (folder / "glob" / "deep").mkdir(parents=True, exist_ok=True)
    for name in ("glob/c.jsonl", "glob/deep/a.jsonl"):
        (folder / name).write_text(json.dumps({**ROW, "question": "What?"}))
    source = PreferenceFileSource(str(folder / pattern), folder)
    assert len(source) == (2 if "**" in pattern else 1)
    with pytest.raises(FileNotFoundError, match="matches no file"):
        PreferenceFileSource(str(folder / "glob" / "z*.jsonl"))


@pytest.mark.parametrize("between", ["\n", ",\n", "\n\n", ""])
@pytest.mark.parametrize("indent", [None, 2])
def test_objects_one_after_the_other_are_all_read(folder: Path, between: str, indent: int | None) -> None:
    rows = [json.dumps(ROW | {"question": f"{number}?"}, indent=indent) for number in range(3)]
    (folder / "several.jsonl").write_text(between.join(rows))
    found = PreferenceFileSource(folder / "several.jsonl")
    if between or indent:
        assert [pair.prompt for pair in found.pairs] == ["0?", "1?", "2?"]
    else:
        assert not found.pairs and [item.reason for item in found.set_aside] == ["bad_row"]


def test_lines_and_lists_of_one_folder_are_read_and_files_of_another_kind_are_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}")
    (tmp_path / "b.jsonl").write_text(json.dumps([ROW]))
    (tmp_path / "c.csv").write_text("question\nWhat?")
    assert len(PreferenceFileSource(tmp_path, folder)) == 3
    assert "its .jsonl files are read; c.csv is not" in caplog.text


def test_an_archive_of_rows_is_to_be_unpacked_and_rows_with_one_answer_are_pointed_elsewhere(folder: Path) -> None:
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.write(folder / "a.png", "images/a.png")
        archive.writestr("data.jsonl", json.dumps(ROW))
    with pytest.raises(ValueError, match=r"set.zip holds data.jsonl.* unpack the archive and give the folder"):
        PreferenceFileSource(folder / "set.zip")
    talk = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A"}]
    (folder / "answers.json").write_text(json.dumps([{"messages": talk, "images": ["a.png"]}]))
    with pytest.raises(ValueError, match="data=llava_json and data=columns read such"):
        len(PreferenceFileSource(folder / "answers.json"))
    (sample,) = LlavaJsonSource(folder / "answers.json", folder)
    assert (sample.question, sample.answer) == ("What?", "A")


def test_what_cannot_be_read_is_said_in_a_sentence(folder: Path) -> None:
    (folder / "wide.jsonl").write_bytes(json.dumps(ROW).encode("utf-16"))
    with pytest.raises(BrokenFile, match="is not UTF-8 text"):
        PreferenceFileSource(folder / "wide.jsonl")
    (folder / "rows.jsonl.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"rows.jsonl.gz cannot be unpacked"):
        PreferenceFileSource(folder / "rows.jsonl.gz")
    (folder / "odd.json").write_text(json.dumps([{"about": "What?", "good": "A", "bad": "B", "pic": "a.png"}]))
    wrong = {"question": "abuot", "chosen": "good", "rejected": "bad", "image": "pic"}
    with pytest.raises(ValueError, match=r"data.columns.question=abuot: .* no such column.*Did you mean about\?"):
        len(PreferenceFileSource(folder / "odd.json", columns=wrong))
    (folder / "video.json").write_text(json.dumps([{**NAMED["tag"], "videos": ["a.mp4"]}]))
    assert (
        PreferenceFileSource(folder / "video.json").set_aside == []
        and not PreferenceFileSource(folder / "video.json").pairs
    )
