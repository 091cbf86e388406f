"""Results by content address: found again by any process, whole or absent, and foreign files do no harm."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from parallax.records import fingerprint
from parallax.records.shard_folder import KeyedStore

KEYS = [fingerprint(i) for i in range(4)]


def test_what_is_added_is_found_by_others_and_later(tmp_path: Path) -> None:
    store, other = KeyedStore(tmp_path / "s"), KeyedStore(tmp_path / "s")
    store.add({KEYS[0]: 0.125, KEYS[1]: {"nodes": [1, "two"]}})
    assert store.get_many(KEYS) == {KEYS[0]: 0.125, KEYS[1]: {"nodes": [1, "two"]}} and len(store) == 2
    assert KEYS[0] not in other and other.get_many(KEYS) == {}
    other.refresh()
    other.add({KEYS[2]: None})
    assert KeyedStore(tmp_path / "s").get_many(reversed(KEYS)) == {**store.get_many(KEYS), KEYS[2]: None}


def test_the_first_of_two_results_under_one_key_stays(tmp_path: Path) -> None:
    store = KeyedStore(tmp_path)
    store.add({KEYS[0]: 1})
    store.add({KEYS[0]: 2, KEYS[1]: 3})
    assert store.get_many(KEYS) == {KEYS[0]: 1, KEYS[1]: 3}
    assert store.add({}) is None


def test_foreign_and_broken_files_are_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyedStore(tmp_path)
    shard = store.add({KEYS[0]: 1})
    assert shard is not None
    (tmp_path / "broken.parquet").write_bytes(shard.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        again = KeyedStore(tmp_path)
    assert again.get_many(KEYS) == {KEYS[0]: 1} and "broken.parquet" in caplog.text
