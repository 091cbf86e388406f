"""Big JSON objects are read list by list, and a fault is told with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.formats import json_scan
from datamodules.formats.json_scan import BrokenFile, sections

CONTENT = {
    "info": {"a": [1, 2]},
    "count": 12345,
    "images": [{"id": 1}, {"id": 2}],
    "other": [3],
    "annotations": [],
    "last": "x",
}


@pytest.mark.parametrize("chunk", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_wanted_lists_come_in_order_whatever_the_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT, indent=indent))
    monkeypatch.setattr(json_scan.Scan.__init__, "__defaults__", (chunk,))
    assert list(sections(path, {"images", "annotations"})) == [("images", {"id": 1}), ("images", {"id": 2})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "starts with '\\['; an object with the lists images is expected"),
        ('{"a": 1}', "has no list 'images'"),
        ('{\n"images":\n[{"id": 1},\n{"id": }]}', "number 2 on \\(line 4"),
        ('{\n"images": [1]\n"b": 2}', "line 3, has '\"' after a value where ',' should be"),
        ('{"images": [1, 2', "breaks off after item of 'images', number 2"),
        ('{"images" [1]}', "where ':' should be"),
    ],
)
def test_a_fault_is_told_with_its_place_and_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BrokenFile, match=message):
        list(sections(path, {"images"}))
