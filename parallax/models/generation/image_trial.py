"""Which of some images kills or holds up the process that opens it, found out in processes that may be lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from parallax.records import BadImage, ImageRef


def dangerous_images(images: Sequence[ImageRef], seconds: float) -> dict[int, BadImage]:
    """Places of images that end the process which opens them or take it longer than `seconds`, and what to say of each.

    Images that cannot be opened, and say so, are not dangerous.
    """
    found: dict[int, BadImage] = {}
    context: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)
    start = 0
    while start < len(images):
        reading, writing = context.Pipe(duplex=False)
        child = context.Process(target=_open_all, args=(images[start:], writing), daemon=True)
        child.start()
        writing.close()
        opened, hung = _count(reading, len(images) - start, seconds)
        if child.is_alive():
            child.kill()
        child.join()
        start += opened
        if start < len(images):
            name = images[start].describe()
            why = (
                f"takes longer than {seconds:g} s to open"
                if hung
                else f"ends the process that opens it ({child.exitcode})"
            )
            found[start] = BadImage(f"image {name!r} {why}; it is damaged or too large, replace it")
            start += 1
    return found


def _open_all(images: Sequence[ImageRef], told: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for image in images:
        with suppress(Exception):
            image.load()
        told.send_bytes(b"1")


def _count(reading: Connection, wanted: int, seconds: float) -> tuple[int, bool]:
    """How many were opened, and whether the next one took too long (rather than ended its process)."""
    for opened in range(wanted):
        end = time.monotonic() + seconds
        try:
            if not reading.poll(max(0.0, end - time.monotonic())):
                return opened, True
            reading.recv_bytes()
        except (EOFError, OSError):
            return opened, False
    return wanted, False
