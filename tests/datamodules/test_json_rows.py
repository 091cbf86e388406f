"""Rows are read one by one, whatever the layout, and a broken file is named with its row."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from datamodules.formats import json_rows as module
from datamodules.formats.json_rows import BrokenFile, json_rows
from tests.faults import Injected

ROOT = Path(__file__).resolve().parents[2]
TEXT = st.text(alphabet=st.sampled_from('ab \\"[]{},:\n\u00fc\u2603\U0001f40c'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
ROWS = st.lists(st.dictionaries(TEXT, JSON, min_size=1, max_size=3), max_size=4)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(rows=ROWS, indent=st.sampled_from([None, 0, 3]), chunk=st.integers(2, 40), lines=st.booleans())
def test_any_rows_come_back_in_order_whatever_the_layout(
    tmp_path_factory: pytest.TempPathFactory, rows: list, indent: int | None, chunk: int, lines: bool
) -> None:
    assume(not lines or len(rows) != 1 or not any(isinstance(value, dict | list) for value in rows[0].values()))
    path = tmp_path_factory.getbasetemp() / "rows.json"  # one object of objects holds its rows, see test_odd_files
    text = "\n\n".join(json.dumps(row) for row in rows) if lines else f" \n{json.dumps(rows, indent=indent)}\n"
    path.write_text(text, encoding="utf-8")
    before, module.CHUNK = module.CHUNK, chunk
    try:
        assert [(row.number, row.value) for row in json_rows(path)] == list(enumerate(rows, start=1))
    finally:
        module.CHUNK = before


@pytest.mark.parametrize(
    ("text", "good", "message"),
    [
        ('[{"a": 1}, {"b": ', 1, r"cannot be read from row 2 on .*incomplete or damaged"),
        ('[{"a": 1}, {"b": 2}', 2, "breaks off after row 2"),
        ('[{"a": 1} {"b": 2}]', 1, "after row 1 where a comma"),
        ('[{"a": 1}, {b: 2}]', 1, "cannot be read from row 2 on"),
        ("[" * 200_000, 0, "cannot be read from row 1 on"),
        ('"text"', 0, "starts with"),
        ("<html>", 0, "starts with '<'"),
    ],
)
def test_a_broken_file_is_refused_at_its_row(tmp_path: Path, text: str, good: int, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    rows = []
    with pytest.raises(BrokenFile, match=message):
        for row in json_rows(path):
            rows.append(row)
    assert len(rows) == good


@pytest.mark.parametrize("form", ["list", "lines"])
def test_a_byte_that_is_not_utf8_costs_its_row_and_not_the_file(form: str, tmp_path: Path) -> None:
    rows = [b'{"a": "\xff\xfe"}', b'{"a": "b"}', b'{"\xe9": 1}', b'{"a": "c"}']
    (tmp_path / "a.json").write_bytes(b"[" + b",".join(rows) + b"]" if form == "list" else b"\n".join(rows))
    read = list(json_rows(tmp_path / "a.json"))
    assert [row.value for row in read] == [None, {"a": "b"}, None, {"a": "c"}]
    assert all("not UTF-8" in str(row.error) for row in (read[0], read[2]))


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('[{"a": "b"}]'.encode("utf-16"))
    with pytest.raises(BrokenFile, match="not UTF-8"):
        list(json_rows(tmp_path / "a.json"))


def test_a_bad_line_is_a_row_with_an_error_and_an_empty_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": 1}\n{"a": \n{"a": 3}\n{"half', encoding="utf-8")
    rows = list(json_rows(path))
    assert [row.error is None for row in rows] == [True, False, True, False]
    path.write_text("")
    assert list(json_rows(path)) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with open(path, "w") as file:
        file.write("[" + ",\n".join(['{"text": "' + "x" * 1000 + '"}'] * 30_000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in json_rows(path)) == 30_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 30e6 and peak < 8e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to know the memory of a process")
def test_a_file_of_more_than_a_gigabyte_is_read_as_a_stream(tmp_path: Path, injected: Injected) -> None:
    path, rows = tmp_path / "large.json", 110_000
    with open(path, "w") as file:
        row = '{"id": "%d", "conversations": [{"from": "human", "value": "' + "What is shown? " * 700 + '"}]}'
        file.write("[" + ",\n".join(row % number for number in range(5)))
        for number in range(5, rows):
            file.write(",\n" + row % number)
        file.write("]")
    assert path.stat().st_size > 2**30
    script = (
        "import re, sys\nfrom datamodules.formats.json_rows import json_rows\n"
        "peak = lambda: int(re.search('VmHWM:(.*) kB', open('/proc/self/status').read())[1]) // 1024\nbefore = peak()\n"
        "print(sum(1 for _ in json_rows(sys.argv[1])), peak() - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    read, mib = map(int, ran.stdout.split())
    assert read == rows and mib < 64
    injected("rows of a JSON file of more than 1 GiB", used=rows, says="read as a stream", most_memory_in_MiB=mib)


def test_a_row_with_half_a_character_has_an_error_and_the_others_do_not(tmp_path: Path) -> None:
    file = tmp_path / "halves.json"
    file.write_text('[{"a": "whole \\ud83d\\ude00"}, {"a": ["\\ud800"]}, {"\\udfff": 1}, 4]')
    good, half, key, number = json_rows(file)
    assert good.value == {"a": "whole 😀"} and number.value == 4
    assert half.value is key.value is None and "half a character" in str(half.error) and half.error == key.error
