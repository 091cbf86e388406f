"""Files of the cache that may be believed: written by this user, and as they were written.

What is kept is used without being made again, so whoever can write it decides results. A file that another user owns, or that
anybody may write, is not used; and the name of a shard holds the digest of its bytes, so that one that was changed is known.
With PARALLAX_SHARED_CACHE=1 the files of other users are used too, for teams who trust each other with a common folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
import uuid
from pathlib import Path

from parallax.records.atomic import atomic_write_bytes
from parallax.records.fingerprint import file_digest

log = logging.getLogger(__name__)

SHARED = "PARALLAX_SHARED_CACHE"
DIGITS = 32  # hex digits of a shard's SHA-256 in its name


def write_shard(folder: Path, data: bytes) -> Path:
    """Write a Parquet shard under a name of its own that holds its digest; whole or absent."""
    return write_kept(folder, f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}", data, ".parquet")


def write_kept(folder: Path, name: str, data: bytes, suffix: str) -> Path:
    """Write `<name>-<digest><suffix>`; whole or absent."""
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:DIGITS]}{suffix}"
    atomic_write_bytes(path, data)
    return path


def why_not_believed(path: Path) -> str:
    """Why a shard is not used, to be read after its name; "" when it is as this user wrote it. Raises OSError."""
    if foreign := why_foreign(path):
        return foreign
    digest = path.stem.rpartition("-")[2]
    if len(digest) != DIGITS:
        return "its name holds no digest of its content (an earlier version wrote it)"
    return "" if file_digest(path)[:DIGITS] == digest else "its content was changed after it was written"


def why_foreign(path: Path) -> str:
    """Why somebody else could have written a file, to be read after its name; "" for this user's own. Raises OSError."""
    if not hasattr(os, "geteuid") or os.environ.get(SHARED) == "1":
        return ""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user (number {status.st_uid}); {SHARED}=1 uses such files"
    if status.st_mode & stat.S_IWOTH:
        return f"everybody may write it; take that right away (chmod o-w), or say {SHARED}=1"
    return ""
