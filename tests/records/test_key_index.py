"""The index of keys is a dict that needs a tenth of the memory."""

from __future__ import annotations

import random

import pytest

from parallax.records import shard_folder
from parallax.records.shard_folder import KeyIndex


def test_it_answers_as_a_dict_does_before_and_after_keys_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_folder, "FRESH", 7)
    draw, index, known = random.Random(3), KeyIndex(), {}
    keys = [f"{draw.getrandbits(128):032x}" for _ in range(60)]
    keys += [key[:16] + f"{draw.getrandbits(64):016x}" for key in keys[:10]]  # the same first half
    keys += ["0" * 32, "f" * 32]
    for number, key in enumerate(draw.choices(keys, k=300)):
        assert index.add([(key, number)]) == (key not in known)
        known.setdefault(key, number)
    assert len(index) == len(known)
    assert {key: index.get(key) for key in keys} == {key: known.get(key) for key in keys}
    assert "ab" * 16 not in index


def test_places_beyond_thirty_two_bits_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_folder, "FRESH", 1)
    index = KeyIndex()
    index.add([("ab" * 16, 2**62 + 1)])
    assert index.get("ab" * 16) == 2**62 + 1
