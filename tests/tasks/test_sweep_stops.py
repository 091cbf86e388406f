"""A sweep that is asked to stop leaves, and one that is killed leaves no worker behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parallax.records.interruption import Interrupted, listening
from parallax.tasks import sweep_pool
from parallax.tasks.sweep_pool import Job, run_jobs

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
import os, subprocess, sys, time
worker = "import os, sys, threading, time, parallax.tasks.sweep_worker as module;" \\
    "threading.Thread(target=module._end_with, args=(int(sys.argv[1]),), daemon=True).start();" \\
    "print(os.getpid(), flush=True); time.sleep(120)"
subprocess.Popen([sys.executable, "-c", worker, str(os.getpid())])
time.sleep(120)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux to look at processes")
def test_a_busy_worker_ends_with_the_sweep_that_is_killed() -> None:
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert sweep.stdout is not None
    worker = int(sweep.stdout.readline())
    assert alive(worker)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def test_asked_to_stop_it_gives_no_further_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[sweep_pool._Worker] = []
    start = sweep_pool._started
    monkeypatch.setattr(sweep_pool, "_started", lambda *a: (worker := start(*a), started.append(worker))[0])
    jobs = [Job(name, tmp_path / name, ("--cfg", "job")) for name in ("first", "second", "third")]
    ended: list[str] = []
    with listening(), pytest.raises(Interrupted) as left:
        for job, _ in run_jobs(jobs, 1, tick=lambda busy: os.kill(os.getpid(), signal.SIGTERM)):
            ended.append(job.name)
    assert left.value.code == 128 + signal.SIGTERM
    assert len(ended) <= 1 and not (tmp_path / "third").exists() and not list(tmp_path.rglob("failure.json"))
    assert all(worker.process.poll() is not None for worker in started), "a worker is left behind"
