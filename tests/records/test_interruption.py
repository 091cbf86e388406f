"""A signal is a request: it is noted, and the run leaves where it asks whether it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from parallax.records.interruption import Interrupted, leave_if_asked, listening, stop_requested, tell_when_asked

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_obeyed_at_the_next_safe_place(signum: signal.Signals) -> None:
    before, told = signal.getsignal(signum), []
    with pytest.raises(Interrupted) as left, listening():
        tell_when_asked(told.append)
        leave_if_asked()  # nobody asked
        os.kill(os.getpid(), signum)
        assert stop_requested() and told == [signum]
        leave_if_asked("in a test")
    assert left.value.code == 128 + signum and str(left.value) == f"stopped by {signum.name}"
    assert not stop_requested() and signal.getsignal(signum) is before


def test_nested_listening_changes_nothing() -> None:
    with listening():
        with listening():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()


def test_another_thread_cannot_listen_and_does_no_harm() -> None:
    heard: list[bool] = []

    def work() -> None:
        with listening():
            heard.append(stop_requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False]


SECOND = """
import os, signal, sys
sys.path.insert(0, {root!r})
from parallax.records.interruption import listening
with listening():
    os.kill(os.getpid(), signal.{first})
    os.kill(os.getpid(), signal.{first})
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("never said", flush=True)
"""


@pytest.mark.parametrize(("first", "lines"), [("SIGTERM", "still here\n"), ("SIGINT", "")])
def test_a_second_ctrl_c_leaves_at_once_and_a_second_sigterm_does_not(first: str, lines: str) -> None:
    code = SECOND.format(root=str(ROOT), first=first)
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, lines)
    assert "SIGINT again: leaving at once" in done.stderr


def test_a_forked_worker_dies_of_a_signal_as_if_nobody_listened() -> None:
    with listening():
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM and not stop_requested()
