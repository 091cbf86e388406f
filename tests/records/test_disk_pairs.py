"""Packed pairs are the pairs that were packed, wherever they are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from parallax.records import PreferencePair, Response
from parallax.records.disk_pairs import DiskPairs
from parallax.records.images import FileImage

PAIRS = [
    PreferencePair(
        f"sample {n}", "made", FileImage("/images", f"{n}.png"), f"Wie heißt das? 图 {n}",
        Response("Ein \"Haus\".\n", (1, 2, n), {"view": {"name": "identity"}, "n": n}, 0.5),
        (Response("Nichts."), Response("", (2,))), "describe", {"more": [1, None]},
    )
    for n in range(5)
]  # fmt: skip


def test_they_come_back_as_they_were_and_in_order(tmp_path: Path) -> None:
    packed = DiskPairs(PAIRS[:3], tmp_path)
    for pair in PAIRS[3:]:
        packed.append(pair)
    assert len(packed) == 5 and list(packed) == PAIRS and packed == PAIRS
    assert packed[-1] == PAIRS[-1] and packed[1:4:2] == PAIRS[1:4:2]
    with pytest.raises(IndexError):
        packed[5]
    assert not list(tmp_path.iterdir()), "the file has a name"


def test_they_travel_to_other_processes() -> None:
    packed = DiskPairs(PAIRS)
    assert pickle.loads(pickle.dumps(packed)) == PAIRS
    child = os.fork()
    if child == 0:
        os._exit(0 if packed[3] == PAIRS[3] and list(packed) == PAIRS else 1)
    assert packed[4] == PAIRS[4]
    assert os.waitpid(child, 0)[1] == 0
