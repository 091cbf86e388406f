"""Archives that stand for more than a disk or a memory holds, archives inside archives, and files whose inside is damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from datamodules.formats import slice_image
from datamodules.formats.columns import ColumnsSource
from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.formats.tables import open_table, unpacked
from tests.faults import Injected

ROW = {"question": "What?", "chosen": "A", "rejected": "B", "image": "a.png"}
LINE = json.dumps(ROW).encode() + b"\n"
PACKED: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a MiB instead of hundreds."""
    monkeypatch.setattr(unpacked, "ALWAYS", 1 << 20)
    monkeypatch.setattr(unpacked, "MOST_TIMES", 20)
    monkeypatch.setattr(slice_image, "MOST_BYTES", 1 << 20)


def named(name: str) -> Any:
    Image.new("RGB", (4, 4)).save(Path(name).parent / "a.png")
    return PreferenceFileSource(name, Path(name).parent)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ending", PACKED)
def test_a_small_file_that_stands_for_gigabytes_is_refused_and_leaves_nothing(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for inner in ("rows.jsonl", "rows.tar", "rows.csv"):
        (tmp_path / f"{inner}.{ending}").write_bytes(PACKED[ending](bytes(30 << 20)))
        with pytest.raises(ValueError, match=r"cannot be unpacked .more than 1 MiB came out of [\d,]+ bytes"):
            open_table(str(tmp_path / f"{inner}.{ending}"))
    assert not list(tmp_path.glob("parallax_unpacked_*"))
    injected("attack: compressed file that stands for gigabytes", told=3, says="refused; nothing of it is left")


@pytest.mark.usefixtures("small")
def test_a_full_disk_bounds_what_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINE * 2000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="too full"):
        open_table(str(tmp_path / "rows.jsonl.gz"))


@pytest.mark.parametrize("ending", PACKED)
def test_honest_rows_that_repeat_themselves_are_read(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"rows.jsonl.{ending}").write_bytes(PACKED[ending](LINE * 2000))
    assert len(named(str(tmp_path / f"rows.jsonl.{ending}"))) == 2000


@pytest.mark.parametrize("name", ["rows.jsonl.gz.gz", "rows.zip.gz", "rows.zip"])
def test_an_archive_inside_an_archive_is_told(name: str, tmp_path: Path, injected: Injected) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("1.zip", b"PK")
        archive.writestr("1.jsonl.gz", gzip.compress(LINE))
    zipped = held.getvalue()
    data = {
        "rows.jsonl.gz.gz": gzip.compress(gzip.compress(LINE)),
        "rows.zip.gz": gzip.compress(zipped),
        "rows.zip": zipped,
    }
    (tmp_path / name).write_bytes(data[name])
    try:
        source = named(str(tmp_path / name))
        assert not len(source) and source.set_aside
    except ValueError as error:
        assert "rows" in str(error)
    injected("attack: archive inside an archive", told=1, says="told in a sentence")


@pytest.mark.usefixtures("small")
def test_a_member_that_takes_all_memory_costs_its_row(tmp_path: Path, injected: Injected) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.json", json.dumps(ROW))
        archive.writestr("2.json", b'{"question": "' + b"x" * (2 << 20) + b'"}')
        archive.writestr("3.txt", bytes(2 << 20))
        archive.writestr("4.png", bytes(2 << 20))
    source = named(str(tmp_path / "rows.zip"))
    assert len(source) == 1 and source.rows == 4 and len(source.set_aside) == 3
    assert "MiB unpacked" in source.set_aside[0].why
    injected("attack: member of an archive that stands for gigabytes", told=3, says="its row is set aside")


def damaged_in_the_middle(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_damaged_inside_is_refused_and_ends_no_process(kind: str, tmp_path: Path, injected: Injected) -> None:
    held, path = io.BytesIO(), tmp_path / f"rows.{kind}"
    table = pyarrow.Table.from_pylist([{**ROW, "question": f"What {number}?" * 9} for number in range(500)])
    if kind == "parquet":
        parquet.write_table(table, held)
        data = held.getvalue()
        path.write_bytes(data[:200] + b"\xff" * 3000 + data[3200:])
    else:
        with ipc.new_file(held, table.schema) as writer:
            writer.write_table(table)
        data = held.getvalue()
        path.write_bytes(data[:900] + b"\x7f" * 3000 + data[3900:])
    with pytest.raises(ValueError, match=f"rows.{kind}"):
        len(named(str(path)))
    injected("attack: table whose offsets point elsewhere", told=1, says="refused in a sentence")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_cell_that_is_not_utf_8_costs_its_row(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = [{**ROW, "question": f"What {number}?"} for number in range(5)]
    if kind == "parquet":
        table = pyarrow.Table.from_pylist(rows)
        raw = pyarrow.array([f"What {number}?".encode() if number != 3 else b"What \xff?" for number in range(5)])
        parquet.write_table(table.set_column(0, "question", raw.cast(pyarrow.string(), safe=False)), path)
    else:
        path.write_bytes(b"question,chosen,rejected,image\n" + b"".join(
            b"What \xff?,A,B,a.png\n" if number == 3 else b"What %d?,A,B,a.png\n" % number for number in range(5)))  # fmt: skip
    source = named(str(path))
    assert len(source) == 4 and [item.reason for item in source.set_aside] == ["bad_row"]
    columns = ColumnsSource(str(path), {"image": "image", "question": "question"}, tmp_path)
    assert len(columns) == 4 and len(columns.set_aside) == 1 and [columns[place].id for place in range(4)]
