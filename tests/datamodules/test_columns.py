"""Any table by its columns: the same rows come out of every kind of file, one at a time, and nothing is mixed up."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from datamodules.formats.columns import ColumnsSource

COLUMNS = {"image": "picture", "question": "q", "answer": "a", "id": "key"}
ROWS = 5


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    for module, name in ((datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")):
        monkeypatch.setattr(module, name, True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def pictures(photo: Image.Image) -> list[Image.Image]:
    return [photo.rotate(30 * number) for number in range(ROWS)]


def rows(pictures: list[Any]) -> list[dict[str, Any]]:
    return [{"picture": p, "q": f"What is in {n}?", "a": f"Thing {n}.", "key": f"k{n}"} for n, p in enumerate(pictures)]


def parquet(folder: Path, pictures: list[Image.Image]) -> Path:
    """Two files; the first in row groups of two."""
    (folder / "parts").mkdir()
    made = datasets.Dataset.from_list(rows(pictures))
    pyarrow.parquet.write_table(
        made.select(range(3)).data.table, folder / "parts" / "train-0.parquet", row_group_size=2
    )
    made.select(range(3, ROWS)).to_parquet(folder / "parts" / "train-1.parquet")
    return folder / "parts"


def disk(folder: Path, pictures: list[Image.Image]) -> Path:
    datasets.Dataset.from_list(rows(pictures)).save_to_disk(folder / "disk")
    return folder / "disk"


def arrow(folder: Path, pictures: list[Image.Image]) -> Path:
    return next(disk(folder, pictures).glob("*.arrow"))


def tar(folder: Path, pictures: list[Image.Image]) -> Path:
    (folder / "shards").mkdir()
    for shard, numbers in enumerate((range(2), range(2, ROWS))):
        with tarfile.open(folder / "shards" / f"{shard:05d}.tar", "w") as archive:
            for number in numbers:
                said = {"q": f"What is in {number}?", "key": f"k{number}"}
                for name, data in (("picture.png", _png(pictures[number])), ("json", json.dumps(said).encode()),
                                   ("txt", f"Thing {number}.\n".encode())):  # fmt: skip
                    member = tarfile.TarInfo(f"some/{number:06d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder / "shards"


def lines(folder: Path, pictures: list[Image.Image], name: str = "rows.jsonl") -> Path:
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    made = [{**row, "picture": f"{number}.png"} for number, row in enumerate(rows([None] * ROWS))]
    text = json.dumps(made) if name.endswith(".json") else "\n\n".join(json.dumps(row) for row in made)
    (folder / name).write_text(text)
    return folder / name


def json_list(folder: Path, pictures: list[Image.Image]) -> Path:
    return lines(folder, pictures, "rows.json")


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("write", [parquet, disk, arrow, tar, lines, json_list], ids=lambda write: write.__name__)
def test_every_kind_of_file_gives_the_same_samples(
    tmp_path: Path, pictures: list[Image.Image], write: Callable[..., Path]
) -> None:
    columns = {**COLUMNS, "image": "picture.png", "answer": "txt"} if write is tar else COLUMNS
    root = tmp_path if write in (lines, json_list) else None
    source = ColumnsSource(write(tmp_path, pictures), columns, image_root=root)
    assert len(source) == ROWS and not source.set_aside
    found = list(source)
    assert [s.id for s in found] == [f"k{n}" for n in range(ROWS)]
    assert [(s.question, s.answer) for s in found] == [(f"What is in {n}?", f"Thing {n}.") for n in range(ROWS)]
    for number in (0, 3, 1, 4, 2):  # in any order
        sample = source[number]
        assert sample == found[number] and sample.image.load().tobytes() == pictures[number].tobytes()
        assert sample.image.size() == pictures[number].size  # type: ignore[attr-defined]
    assert len({sample.image.digest() for sample in found}) == ROWS


def test_several_images_are_shown_in_order_and_never_mixed_up(tmp_path: Path, pictures: list[Image.Image]) -> None:
    made = [{"images": [p], "q": f"{n}?"} for n, p in enumerate(pictures)]
    made[1:1] = [{"images": pictures[:2], "q": "two?"}, {"images": [], "q": "none?"}]
    datasets.Dataset.from_list(made).to_parquet(tmp_path / "a.parquet")
    source = ColumnsSource(tmp_path / "a.parquet", {"image": "images", "question": "q"})
    assert [s.question for s in source] == ["0?", "two?", *(f"{n}?" for n in range(1, ROWS))]
    assert [(item.item, item.reason) for item in source.set_aside] == [("a.parquet, row 3", "no_image")]
    shown = [image.load().tobytes() for image in source[1].images]
    assert shown == [picture.tobytes() for picture in pictures[:2]]
    assert source[2].image.load().tobytes() == pictures[1].tobytes() and len(source[2].images) == 1


def test_paths_inside_parquet_are_files_below_the_root(tmp_path: Path, pictures: list[Image.Image]) -> None:
    pictures[0].save(tmp_path / "a.png")
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    made = [{"image": {"bytes": None, "path": path}, "q": "What?"} for path in ("a.png", "../a.png")]
    schema = pyarrow.schema([("image", image), ("q", pyarrow.string())])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made, schema=schema), tmp_path / "a.parquet")
    source = ColumnsSource(tmp_path / "a.parquet", {"image": "image", "question": "q"}, image_root=tmp_path)
    assert source[0].image.load().tobytes() == pictures[0].tobytes()
    assert [item.reason for item in source.set_aside] == ["bad_image"]


def test_a_repeated_id_gets_its_row_number(tmp_path: Path, pictures: list[Image.Image]) -> None:
    path = lines(tmp_path, pictures)
    path.write_text(path.read_text().replace('"k3"', '"k1"'))
    assert [s.id for s in ColumnsSource(path, COLUMNS, tmp_path)] == ["k0", "k1", "k2", "k1~4", "k4"]


def test_conversations_and_questions_from_a_pool(tmp_path: Path, pictures: list[Image.Image]) -> None:
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    pictures[0].save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "talk": said, "names": ["Dog", "cat", "dog"]}))
    (one,) = ColumnsSource(
        tmp_path / "a.jsonl", {"image": "image", "conversations": "talk", "objects": "names"}, tmp_path
    )
    assert (one.question, one.answer, one.objects, one.id) == ("What?", "This.", ("cat", "dog"), "row1")
    (asked,) = ColumnsSource(tmp_path / "a.jsonl", {"image": "image"}, tmp_path, prompts=["Describe it."])
    assert asked.question == "Describe it."


def test_only_as_much_of_a_stream_is_read_as_is_wanted_and_kept(tmp_path: Path, pictures: list[Image.Image]) -> None:
    def source() -> ColumnsSource:
        return ColumnsSource(parts, COLUMNS, streaming=True, limit=4, cache_dir=tmp_path / "cache")

    parts = parquet(tmp_path, pictures)
    first = source()
    assert [s.id for s in first] == ["k0", "k1", "k2", "k3"]
    assert first[3].image.load().tobytes() == pictures[3].tobytes()
    for file in parts.iterdir():
        file.unlink()
    assert list(source()) == list(first)  # from what was kept
    with pytest.raises(ValueError, match="give data.limit"):
        ColumnsSource(parts, COLUMNS, streaming=True, cache_dir=tmp_path / "cache")


def test_rows_are_not_held_in_memory(tmp_path: Path, pictures: list[Image.Image]) -> None:
    import tracemalloc

    pictures[0].save(tmp_path / "a.png")
    with open(tmp_path / "a.jsonl", "w") as file:
        for number in range(8_000):
            file.write(json.dumps({"picture": "a.png", "q": f"What is {number}? " + "x" * 1000}) + "\n")
    source = ColumnsSource(tmp_path / "a.jsonl", {"image": "picture", "question": "q"}, tmp_path)
    tracemalloc.start()
    assert sum(1 for _ in source) == len(source) == 8_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "a.jsonl").stat().st_size > 8e6 and peak < 2e6


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": "pictures", "question": "q"},
            "has no such column; it has picture, q, a, key. Did you mean picture?",
        ),
        (
            {"image": "picture", "question": "q", "reply": "a"},
            "data.columns.reply is no role; roles are image, question",
        ),
        ({"question": "q"}, "data.columns.image is not given"),
        ({"image": "picture"}, "names no question, and there are no data.prompts"),
    ],
)
def test_wrong_columns_are_refused_in_words(
    tmp_path: Path, pictures: list[Image.Image], columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ColumnsSource(lines(tmp_path, pictures), columns, tmp_path)


def test_wrong_files_are_refused_in_words(tmp_path: Path, pictures: list[Image.Image]) -> None:
    shards, parts = tar(tmp_path, pictures), parquet(tmp_path, pictures)
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:1200])
    with pytest.raises(ValueError, match="00001.tar (cannot be read as a tar file|breaks off)"):
        ColumnsSource(shards, {"image": "picture.png", "question": "q"})
    (parts / "train-1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="train-1.parquet is no Parquet file"):
        ColumnsSource(parts, COLUMNS)
    datasets.Dataset.from_list([{"picture": "a", "question": "b"}]).to_parquet(parts / "train-1.parquet")
    with pytest.raises(ValueError, match="has other columns than"):
        ColumnsSource(parts, COLUMNS)
    with pytest.raises(ValueError, match="owner/set cannot be opened as a data set"):
        ColumnsSource("owner/set", COLUMNS)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ColumnsSource(tmp_path / "none.parquet", COLUMNS)


def test_a_row_that_is_no_json_is_set_aside_with_its_place(tmp_path: Path, pictures: list[Image.Image]) -> None:
    path = lines(tmp_path, pictures)
    path.write_text(path.read_text() + '\n{"picture": \n[1]\n' + json.dumps({"picture": "0.png", "q": 3}))
    source = ColumnsSource(path, COLUMNS, tmp_path)
    assert len(source) == ROWS
    assert [item.why for item in source.set_aside][1:] == [
        "rows.jsonl, row 7: it is a list; an object is needed",
        "rows.jsonl, row 8: its q is a number; a text is needed",
    ]
