"""Pair sets: round trips, whole or absent, read by others."""

from __future__ import annotations

from pathlib import Path

import datasets
import pandas
import pytest
from PIL import Image

from parallax.records import Dropped, PreferencePair, Response
from parallax.records import pair_store as pair_store_module
from parallax.records.images import FileImage
from parallax.records.pair_store import PairSet


@pytest.fixture
def pairs(tmp_path: Path) -> list[PreferencePair]:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), (name[0] == "a" and "red") or "blue").save(tmp_path / name)
    generated = Response("A cat.", (5, 6, 2), {"candidate": "k", "view": {"name": "identity"}}, score=1.0)
    worse = [
        Response("A dog.", (5, 7, 2), {"finished": True}, 0.0),
        Response("A cow", (5, 8), {"finished": False}, 0.0),
    ]
    given = PreferencePair("two", "file", FileImage(str(tmp_path), "b.png"), "Q?", Response("yes"), (Response("no"),))
    return [
        PreferencePair(
            "one", "folder", FileImage(str(tmp_path), "a.png"), "What?", generated, tuple(worse), "describe"
        ),
        given,
    ]


DROPPED = [
    Dropped("three", "folder", "equal"),
    Dropped("four", "folder", "equal"),
    Dropped("five", "x", "empty", "chosen"),
]


def test_pairs_and_drops_come_back_as_they_were_written(tmp_path: Path, pairs: list[PreferencePair]) -> None:
    store = PairSet(tmp_path / "set")
    manifest = store.write(pairs, DROPPED, {"policy": {"fingerprint": "f"}, "seed": 3})
    assert store.load(lambda sample, image: FileImage(str(tmp_path), image)) == pairs
    assert store.dropped() == DROPPED
    assert manifest == store.manifest()
    assert (manifest["pairs"], manifest["dropped"], manifest["seed"]) == (2, {"empty": 1, "equal": 2}, 3)
    assert [pair.id for pair in store.load(lambda s, i: FileImage(str(tmp_path), i))] == [pair.id for pair in pairs]


def test_datasets_and_pandas_read_a_pair_set(tmp_path: Path, pairs: list[PreferencePair]) -> None:
    PairSet(tmp_path / "set").write(pairs)
    file = str(tmp_path / "set" / "pairs.parquet")
    rows = datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "hf"))
    assert rows["chosen"][:] == ["A cat.", "yes"] and rows[0]["rejected"] == ["A dog.", "A cow"]
    table = pandas.read_parquet(file)
    assert table.image.tolist() == ["a.png", "b.png"] and table.chosen_token_ids[0].tolist() == [5, 6, 2]
    assert table.pair_id.tolist() == [pair.id for pair in pairs]


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path, pairs: list[PreferencePair]) -> None:
    for name in ("one", "two"):
        PairSet(tmp_path / name).write(pairs, DROPPED, {"seed": 1})
    for file in ("pairs.parquet", "dropped.parquet", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_set_is_whole_or_absent(tmp_path: Path, pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(pair_store_module, "atomic_write_json", full_disk)
    store = PairSet(tmp_path / "set")
    with pytest.raises(OSError, match="no space left"):
        store.write(pairs)
    assert not store.complete and not store.folder.exists() and not list(tmp_path.glob(".tmp-*"))
    with pytest.raises(FileNotFoundError, match="no complete pair set"):
        store.manifest()
    monkeypatch.undo()
    store.write(pairs)
    assert store.complete


def test_a_complete_set_is_never_written_again(tmp_path: Path, pairs: list[PreferencePair]) -> None:
    store = PairSet(tmp_path / "set")
    first = store.write(pairs, DROPPED)
    assert store.write(pairs[:1]) == first


def test_an_image_that_changed_since_is_refused(tmp_path: Path, pairs: list[PreferencePair]) -> None:
    store = PairSet(tmp_path / "set")
    store.write(pairs)
    Image.new("RGB", (5, 5), "green").save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"image 'a\.png' of sample 'one' has changed"):
        store.load(lambda sample, image: FileImage(str(tmp_path), image))


def test_another_format_of_the_files_is_refused_in_words(tmp_path: Path, pairs: list[PreferencePair]) -> None:
    store = PairSet(tmp_path / "set")
    store.write(pairs)
    text = (store.folder / "manifest.json").read_text()
    (store.folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99"):
        store.manifest()
