"""Work that is halved and begun again when memory runs out, and what was learned by it: the size that fits is remembered."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from parallax.models.memory.advice import is_out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Room:
    """How many rows of one kind of work go at once.

    Args:
        what: the rows, as the log calls them.

    Attributes:
        most: rows that have not failed yet; no limit as long as memory has never run out.
    """

    def __init__(self, what: str) -> None:
        self.what, self.most = what, sys.maxsize

    def lower(self, error: BaseException, rows: int) -> bool:
        """After `error` with `rows` rows: take half as many from now on. False where that is no way out."""
        if not is_out_of_memory(error) or rows < 2:
            return False
        self.most = (rows + 1) // 2
        log.warning("memory ran out with %d %s at a time; from now on %d", rows, self.what, self.most)
        error.__traceback__ = None  # its frames hold the tensors that were too many
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def results(
        self, whole: T, rows: Callable[[T], int], halves: Callable[[T], tuple[T, T]], work: Callable[[T], R]
    ) -> Iterator[R]:
        """`work` on `whole`, or on its halves in their order where it does not fit, and on theirs."""
        todo = [whole]
        while todo:
            now = todo.pop()
            if (
                self.most == sys.maxsize or rows(now) <= self.most
            ):  # parts that are still to come are not counted for nothing
                try:
                    done = work(now)
                except (MemoryError, RuntimeError) as error:
                    if not self.lower(error, rows(now)):
                        raise
                else:
                    yield done
                    continue
            first, second = halves(now)
            todo += [second, first]
