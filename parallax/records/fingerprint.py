"""Names and seeds from content: the same plain data gives the same on every machine, in any order, batch and process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LENGTH = 32  # hex digits kept of a SHA-256: 128 bits, no collisions to fear


def canonical_json(value: object) -> str:
    """Plain data as JSON with sorted keys and no spaces. Raises TypeError for anything that is not plain data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: object) -> str:
    """The content address of plain data (dicts, lists, strings, numbers, booleans, None)."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:LENGTH]


def bytes_digest(data: bytes) -> str:
    """Full hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path | str) -> str:
    """Full hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_for(run_seed: int, sample_id: str, purpose: str, index: int = 0) -> int:
    """A 63-bit seed from (run seed, sample, purpose, index).

    `purpose` separates independent draws about the same sample ("view", "decode", "mixture", …); `index` counts
    repetitions of one purpose (the k-th negative). Fits `torch.Generator.manual_seed` and `numpy.random.default_rng`.
    """
    text = "\x1f".join((str(int(run_seed)), sample_id, purpose, str(int(index))))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
