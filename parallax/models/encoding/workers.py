"""Worker processes that prepare images: how they behave, how their loss shows, and how work goes on without them."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3


class WorkerDied(RuntimeError):
    """A process that prepares images has ended before its work was done."""


def begin_worker(_: int) -> None:
    """First thing a worker does: one thread, and signals as a worker should take them."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the main process does with it, a worker ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers


def worker_lost(error: RuntimeError) -> bool:
    """Whether a data loader says that a worker has died or does not answer."""
    return "DataLoader worker" in str(error) or "DataLoader timed out" in str(error)


def watched(loader: Iterable[T]) -> Iterator[T]:
    """Iterate over a data loader whose workers' deaths are told where the next item is asked for, and nowhere else.

    torch raises them wherever the main thread happens to be, in the middle of a training step if need be.
    """
    if not getattr(loader, "num_workers", 0):
        yield from loader
        return
    iterator = iter(loader)
    _take_over_deaths()
    try:
        while True:
            try:
                _waiting.append(True)
                torch._C._error_if_any_worker_fails()
                item = next(iterator)
            except StopIteration:
                return
            except (ConnectionError, EOFError) as error:  # it died while it handed a tensor over
                raise RuntimeError(f"DataLoader worker was lost while it handed over its work ({error})") from error
            finally:
                _waiting.clear()
            yield item
    finally:
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


_waiting: list[bool] = []  # not empty while `watched` asks for an item


def _take_over_deaths() -> None:
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, _on_death)


def _on_death(signum: int, frame: FrameType | None) -> None:
    if _waiting:
        torch._C._error_if_any_worker_fails()


def with_new_workers(rest: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What `rest()` brings, opened again when a worker dies or stops answering; the same place is tried three times.

    `rest` gives what is still to come each time it is called.
    """
    lost = 0
    while True:
        try:
            for item in rest():
                lost = 0
                yield item
            return
        except RuntimeError as error:
            if not worker_lost(error):
                raise
            lost, said = lost + 1, str(error).strip().splitlines()[0].rstrip(".")
            if lost == TRIES:
                raise WorkerDied(
                    f"processes that prepare images were lost {TRIES} times at the same place ({said}). Most often memory or "
                    "shared memory (/dev/shm) is too small: set trainer.num_workers to fewer, or to 0 to prepare images in the "
                    "main process"
                ) from error
            log.warning("%s; new ones are started", said)
