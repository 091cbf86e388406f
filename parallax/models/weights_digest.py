"""Names for weights: the same numbers give the same name, other numbers another.

Weights that lie in files are named by the files' bytes, remembered by (path, size, modification time) so that a 14 GB
checkpoint is read once. Weights in memory are named by their tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from parallax.records import file_digest, fingerprint
from parallax.records.kept_file import why_foreign

REMEMBERED = "weight_digests.json"


def default_memory() -> Path:
    """Where digests of weight files are remembered: `$XDG_CACHE_HOME/parallax` or `~/.cache/parallax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallax" / REMEMBERED


def files_digest(files: Iterable[Path], memory: Path | None = None) -> str:
    """The name of weights kept in `files`, by their bytes and not by where they lie. Shape-independent, 32 hex digits."""
    memory = default_memory() if memory is None else memory
    known = _read(memory)
    digests, news = {}, False
    for file in sorted(Path(f).resolve() for f in files):
        status = file.stat()
        key = f"{file}|{status.st_size}|{status.st_mtime_ns}"
        if key not in known:
            known[key], news = file_digest(file), True
        digests[file.name] = known[key]
    if news:
        _write(memory, known)
    return fingerprint({"weight_files": digests})


def tensors_digest(tensors: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor] = lambda value: value) -> str:
    """The name of weights in memory: names, types, shapes and bytes of all tensors. `whole` puts a sharded one together."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = whole(tensors[name].detach())  # every process hashes all of it
        tensor = tensor.to(
            "cpu", copy=True
        ).contiguous()  # numpy would fix the size of storage that sharding empties again
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _read(memory: Path) -> dict[str, str]:
    try:
        if why_foreign(memory):
            return {}
        known = json.loads(memory.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(memory: Path, known: dict[str, str]) -> None:
    """A memory that cannot be written costs time at the next start, nothing else."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_name(f"{memory.name}.{os.getpid()}.part")
        part.write_text(json.dumps(known, indent=1))
        part.replace(memory)
    except OSError:
        pass
