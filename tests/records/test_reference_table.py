"""Reference log-probs: a side table that many runs and several references share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parallax.records.reference_table import ReferenceTable


def test_rows_come_back_exactly_in_float32_and_by_reference(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(-50, 20, 3).astype(np.float32).tolist()
    ReferenceTable(tmp_path).add({"pair1": values}, "reference1")
    ReferenceTable(tmp_path).add({"pair1": [-1.0, -2.0], "pair2": [-3.0, -4.0]}, "reference2")
    table = ReferenceTable(tmp_path)
    assert table.get(["pair1", "pair2"], "reference1") == {"pair1": values}
    assert table.get(["pair2"], "reference2") == {"pair2": [-3.0, -4.0]}
    assert table.get(["pair1"], "reference3") == {}


def test_rows_of_another_writer_are_seen(tmp_path: Path) -> None:
    one, other = ReferenceTable(tmp_path), ReferenceTable(tmp_path)
    assert one.get(["a"], "r") == {}
    other.add({"a": [-1.0, -2.0]}, "r")
    assert one.get(["a"], "r") == {"a": [-1.0, -2.0]}


def test_torn_shards_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = ReferenceTable(tmp_path).add({"a": [-1.0, -2.0]}, "r")
    assert path is not None
    (path.parent / "0-torn.parquet").write_bytes(path.read_bytes()[:50])
    assert ReferenceTable(tmp_path).get(["a"], "r") == {"a": [-1.0, -2.0]}
    assert "0-torn.parquet" in caplog.text


@pytest.mark.parametrize("values", [[], [-1.0, float("nan")], [float("-inf"), -1.0]])
def test_numbers_that_cannot_be_log_probs_of_a_pair_are_refused(tmp_path: Path, values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers, one at least"):
        ReferenceTable(tmp_path).add({"a": values}, "r")


def test_a_look_has_one_number(tmp_path: Path) -> None:
    ReferenceTable(tmp_path).add({"a look": [-1.5]}, "r")
    assert ReferenceTable(tmp_path).get(["a look"], "r") == {"a look": [-1.5]}


def test_a_reference_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no reference fingerprint"):
        ReferenceTable(tmp_path).add({"a": [-1.0, -2.0]}, "../out")
