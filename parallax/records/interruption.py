"""Being asked to stop: the signal is noted, and the run leaves at the next place where everything it has done is saved.

    with listening():
        ...
        leave_if_asked()  # between two steps, two batches, two samples

The first SIGINT (Ctrl-C), SIGTERM (Slurm, `kill`) or SIGUSR1 (Slurm's early warning) is a request. A second Ctrl-C leaves at
once: every file is whole or absent, so that nothing is damaged and only the work since the last save is lost.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Interrupted(SystemExit):
    """The run was asked to stop and has saved what it has. The exit status is a shell's: 128 + the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


class _Asked:
    """What has been asked of this process."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.process = 0
        self.listeners: list[Callable[[int], None]] = []


_asked = _Asked()


def stop_requested() -> bool:
    """Whether this process has been asked to stop."""
    return _asked.signum is not None and _asked.process == os.getpid()


def leave_if_asked(here: str = "", *, everywhere: bool = False) -> None:
    """Raise `Interrupted` if this process has been asked to stop; call it only where everything is saved.

    `everywhere`: another process of the run may have been asked in its place, and all leave together.
    """
    if stop_requested() or everywhere:
        log.info(
            "stopping%s: all that is done so far is saved; the same command goes on from here",
            f" {here}" if here else "",
        )
        raise Interrupted(_asked.signum or signal.SIGTERM)


def tell_when_asked(listener: Callable[[int], None]) -> None:
    """Have `listener(signal number)` called when the request comes, e.g. to pass it on to processes of one's own."""
    _asked.listeners.append(listener)


@contextmanager
def listening() -> Iterator[None]:
    """While inside, signals are requests. Only the main thread can listen; elsewhere, and inside another one, nothing changes."""
    if threading.current_thread() is not threading.main_thread() or _asked.process == os.getpid():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    _asked.signum, _asked.process, _asked.listeners = None, os.getpid(), []
    for signum in SIGNALS:
        signal.signal(signum, _note)
    try:
        with _watching_for_the_second():
            yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        _asked.signum, _asked.process, _asked.listeners = None, 0, []


@contextmanager
def _watching_for_the_second() -> Iterator[None]:
    """Leave at once on a second Ctrl-C even while the main thread is deep inside a library and cannot run a handler.

    The system writes a byte for each signal into a pipe, and a thread reads it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        asked = False
        while byte := os.read(reading, 1):
            if byte[0] == 0:
                break
            if asked and byte[0] == signal.SIGINT:
                _leave_at_once(signal.SIGINT)
            asked = asked or byte[0] in SIGNALS
        os.close(reading)

    thread = threading.Thread(target=watch, daemon=True, name="second Ctrl-C")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        thread.join()
        os.close(writing)


def _forget_in_a_worker() -> None:
    """A forked worker must not write its signals into our pipe: a Ctrl-C reaches every process of a terminal."""
    if _asked.process and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_a_worker)


def _leave_at_once(signum: int) -> None:
    _say(f"{signal.Signals(signum).name} again: leaving at once. What was saved before stays as it is.")
    if sys.stderr.isatty():
        os.write(2, SHOW_CURSOR.encode())
    os._exit(128 + signum)


def _note(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _asked.process:  # a worker that was forked from us: it obeys, as if we were not there
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
        return
    name = signal.Signals(signum).name
    if _asked.signum is not None:
        if signum == signal.SIGINT:
            _leave_at_once(signum)
        return  # Slurm may say it twice
    _asked.signum = signum
    again = " Press Ctrl-C again to leave at once." if signum == signal.SIGINT else ""
    _say(f"{name}: stopping as soon as what is done so far is saved.{again}")
    for listener in _asked.listeners:
        listener(signum)


def _say(sentence: str) -> None:
    """Straight to standard error: a handler may have interrupted the logging module itself."""
    os.write(2, f"\n{sentence}\n".encode())
