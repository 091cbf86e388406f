"""Worker processes for a local sweep: each runs one job at a time; one that dies costs its job and nothing else."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from parallax.records.interruption import leave_if_asked
from parallax.settings.launchers import visible_gpus
from parallax.settings.places import PACKAGES

TICK = 0.5  # seconds between two looks at what the jobs say about themselves


@dataclass(frozen=True, slots=True)
class Job:
    """A point of a sweep: what is typed, and where it goes."""

    name: str
    folder: Path
    words: tuple[str, ...]  # all that `python run.py` is given


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[str]
    job: Job | None = None

    def give(self, job: Job) -> None:
        self.job = job
        pipe: IO[str] = self.process.stdin  # type: ignore[assignment]
        pipe.write(json.dumps({"folder": str(job.folder), "words": list(job.words)}) + "\n")
        pipe.flush()


def run_jobs(
    jobs: Sequence[Job], workers: int, *, environment: dict[str, str] | None = None, tick: Callable[[list[Job]], None]
) -> Iterator[tuple[Job, str]]:
    """Run the jobs, `workers` at a time, and yield each with why it failed ("" when it did not), as they end.

    Asked to stop, it lets the jobs under way save what they have and leaves (`Interrupted`).

    Args:
        environment: for the workers, beside this process's own.
        tick: called twice a second or so with the jobs under way.
    """
    waiting, count = list(jobs), min(max(1, workers), len(jobs))
    waiting.reverse()
    with selectors.DefaultSelector() as selector:
        team = [_started(place, count, environment or {}) for place in range(count)]
        try:
            for place, worker in enumerate(team):
                worker.give(waiting.pop())
                selector.register(worker.process.stdout, selectors.EVENT_READ, place)  # type: ignore[arg-type]
            while busy := [worker.job for worker in team if worker.job is not None]:
                leave_if_asked(f"with {len(busy)} jobs under way")
                tick(busy)
                for key, _ in selector.select(timeout=TICK):
                    worker = team[key.data]
                    job, answer = worker.job, worker.process.stdout.readline()  # type: ignore[union-attr]
                    worker.job = None
                    if answer:
                        assert job is not None
                        yield job, str(json.loads(answer)["reason"])
                    else:
                        selector.unregister(key.fileobj)
                        if job is not None:
                            yield job, _how_it_died(worker.process)
                        if waiting:
                            worker.process = _started(key.data, count, environment or {}).process
                            selector.register(worker.process.stdout, selectors.EVENT_READ, key.data)  # type: ignore[arg-type]
                    if waiting:
                        worker.give(waiting.pop())
        finally:
            for worker in team:
                _stop(worker.process)


def worker_environment(place: int, count: int) -> dict[str, str]:
    """What worker `place` of `count` is given: a GPU of its own where there are several, its share of the cores elsewhere."""
    gpus = visible_gpus()
    if count > 1 and len(gpus) > 1:
        return {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]}
    if count > 1 and "OMP_NUM_THREADS" not in os.environ:
        return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    return {}


def _started(place: int, count: int, environment: dict[str, str]) -> _Worker:
    path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    own: dict[str, Any] = {**os.environ, "PYTHONPATH": path, **environment, **worker_environment(place, count)}
    return _Worker(
        subprocess.Popen(
            [sys.executable, "-m", "parallax.tasks.sweep_worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=own,
        )
    )


def _how_it_died(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; was there enough memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {code}"


def _stop(process: subprocess.Popen[str]) -> None:
    """Idle workers end when their input does; busy ones (an interrupt) are told to."""
    try:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(timeout=2)
    except (subprocess.TimeoutExpired, OSError):
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    process.stdout.close()  # type: ignore[union-attr]
