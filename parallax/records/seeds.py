"""Seeds that belong to the sample, never to the order, the batch or the process."""

from __future__ import annotations

import hashlib


def seed_for(run_seed: int, sample_id: str, purpose: str, index: int = 0) -> int:
    """A 63-bit seed from (run seed, sample, purpose, index).

    `purpose` separates independent draws about the same sample ("view", "decode", "mixture", …); `index` counts
    repetitions of one purpose (the k-th negative). Fits `torch.Generator.manual_seed` and `numpy.random.default_rng`.
    """
    text = "\x1f".join((str(int(run_seed)), sample_id, purpose, str(int(index))))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
