"""A sweep file run here: what is planned, workers that outlive failing jobs, and the whole way as people type it."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from parallax.settings.errors import ConfigError
from parallax.settings.sweep_file import read_sweep
from parallax.tasks import sweep_pool
from parallax.tasks.multirun import failure_in
from parallax.tasks.recipe import run_key
from parallax.tasks.run_state import RunState
from parallax.tasks.sweep import _clear_other_recipe, _is_done, _plain, planned, point_name, value_of
from parallax.tasks.sweep_pool import Job, run_jobs, worker_environment

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.size=12", "trainer=cpu", "trainer.max_epochs=1", "evaluation.scenes=6", "evaluation.pope_scenes=1",
    "evaluation.bootstrap=20",
)  # fmt: skip


def test_typed_words_come_last_and_a_typed_key_is_not_swept(tmp_path: Path) -> None:
    sweep = read_sweep(ROOT / "sweeps" / "beta.yaml")
    jobs = planned(sweep, tmp_path, ["task=sweep", "sweep=x.yaml", "sweep_jobs=3", "logger=none", "seed=4"])
    assert [job.name for job in jobs] == ["beta_0.1", "beta_0.3", "beta_1", "beta_3"]
    place = f'hydra.run.dir="{tmp_path / "beta_0.3"}"'
    assert jobs[1].words == ("method=seva", "logger=none", "loss.beta=0.3", "seed=4", place)
    (only,) = planned(sweep, tmp_path, ["loss.beta=7"])
    assert only.name == "only" and "loss.beta=7" in only.words


def test_a_refused_point_is_named_before_any_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim.lr=-1.*\(point beta_0.1\)"):
        planned(read_sweep(ROOT / "sweeps" / "beta.yaml"), tmp_path, ["optim.lr=-1"])


def test_folders_of_points_are_told_apart(tmp_path: Path) -> None:
    assert point_name({"aug.noise_steps": 500, "loss.beta": 0.1}) == "noise_steps_500__beta_0.1"
    assert point_name({"aug": "diffusion", "x": None}) == "aug_diffusion__x_None"
    close = point_name({"lr": 1.0000001e-5}), point_name({"lr": 1.0000002e-5})
    assert close[0] != close[1] and all(name.startswith("lr_1e-05_") for name in close)
    assert point_name({"a.r": 1, "b.r": 2}) != point_name({"b.r": 1, "a.r": 2})


def test_a_finished_point_is_kept_and_one_of_another_recipe_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = planned(read_sweep(ROOT / "sweeps" / "beta.yaml"), tmp_path, [])[0]
    assert not _is_done(job)
    job.folder.mkdir()
    results = {"after": {"chair_i": {"value": 0.25}}, "pairs": {"kept": 3}, "stages": {}}
    (job.folder / "results.json").write_text(json.dumps(results))
    state = RunState.new(run_key(_plain(job)), "code", "align")
    state.write(job.folder)
    assert not _is_done(job), "it says that it is running"
    replace(state, state="finished").write(job.folder)
    assert _is_done(job) and value_of("eval/chair_i", job.folder) == 0.25 and value_of("eval/x", job.folder) is None
    (job.folder / "failure.json").write_text('{"reason": "no memory"}')
    assert not _is_done(job)
    _clear_other_recipe(job)
    assert job.folder.exists()
    replace(state, key="another").write(job.folder)
    _clear_other_recipe(job)
    assert not job.folder.exists() and "made again" in capsys.readouterr().out


def test_a_job_that_fails_or_dies_costs_no_other_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[sweep_pool._Worker] = []
    start = sweep_pool._started
    monkeypatch.setattr(sweep_pool, "_started", lambda *a: (worker := start(*a), started.append(worker))[0])
    words = {"good": ("--cfg", "job"), "bad": ("loss.beta=-1",), "dies": ("--cfg", "job"), "last": ("--cfg", "job")}
    jobs = [Job(name, tmp_path / name, given) for name, given in words.items()]

    def tick(busy: list[Job]) -> None:
        if busy[0].name == "dies":
            started[0].process.send_signal(signal.SIGKILL)

    outcome = {job.name: reason for job, reason in run_jobs(jobs, 1, tick=tick)}
    assert list(outcome) == list(words)
    assert outcome["good"] == outcome["last"] == "" and "loss.beta=-1 is not allowed" in outcome["bad"]
    assert "SIGKILL; was there enough memory?" in outcome["dies"] and len(started) == 2
    assert "loss.beta=-1" in failure_in(tmp_path / "bad") and not failure_in(tmp_path / "good")
    assert "noise_steps: 500" in (tmp_path / "good" / "console.log").read_text()
    assert all(worker.process.poll() is not None for worker in started), "no worker is left behind"


def test_a_sweep_with_nothing_left_to_do_starts_no_worker() -> None:
    assert list(run_jobs([], 2, tick=lambda busy: pytest.fail("there is nothing to wait for"))) == []


def test_each_worker_gets_a_gpu_of_its_own_or_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [worker_environment(place, 3)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == ["2", "5", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert worker_environment(0, 4) == {"OMP_NUM_THREADS": "2"} and worker_environment(0, 1) == {}


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words, *SMALL, "logger=none", f"paths.cache_dir={tmp_path / 'cache'}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=1500, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_nine_points_as_a_multirun_and_as_a_sweep_give_the_same_numbers_and_a_comparison(tmp_path: Path) -> None:
    """Two noise steps would be enough for the claim; nine points are what people sweep."""
    file = tmp_path / "nine.yaml"
    file.write_text(
        "name: nine\nprogram: run.py\nmethod: grid\nmetric: {name: eval/chair_i, goal: minimize}\n"
        "parameters:\n  aug.noise_steps: {values: [400, 500, 600]}\n  loss.beta: {values: [0.1, 0.3, 1.0]}\n"
        'command: ["${env}", "${interpreter}", "${program}", method=seva, "${args_no_hyphens}"]\n'
    )
    many = run(tmp_path, "-m", "aug.noise_steps=400,500,600", "loss.beta=0.1,0.3,1.0", "hydra.sweep.dir=many")
    assert "comparison in" in many.stdout and "9 runs: answers" in many.stdout
    here = run(tmp_path, "task=sweep", f"sweep={file}", "sweep_jobs=2")
    folder = tmp_path / "outputs" / "sweeps" / "nine"
    assert "comparison in" in here.stdout and "best eval/chair_i" in here.stdout
    assert "answers 0 generated" in here.stdout, "the multirun had made them all"
    again = run(tmp_path, "task=sweep", f"sweep={file}")
    assert "9 of them done before and kept" in again.stdout

    def numbers(place: Path) -> dict[tuple[int, float], Any]:
        found = {}
        for path in place.glob("*/results.json"):
            config = yaml.safe_load((path.parent / "config.yaml").read_text())
            results = json.loads(path.read_text())
            found[config["aug"]["noise_steps"], config["loss"]["beta"]] = [results["after"], results["pairs"]["kept"]]
        return found

    assert len(numbers(folder)) == 9 and numbers(folder) == numbers(tmp_path / "many")
    for place in (folder, tmp_path / "many"):
        assert len(list(csv.reader((place / "compare.csv").open()))) == 10
        assert "<html" in (place / "compare.html").read_text()[:500]


@pytest.mark.parametrize(
    "values",
    [
        ["w/p/a", "w/p_a"],
        ["a b", "a_b"],
        ["A", "a"],
        [1, 1.0, "1"],
        ["x" * 200, "x" * 201],
        ["None", "null"],
        [1e-5, "1.0e-05"],
    ],
)
def test_every_point_has_a_folder_of_its_own(values: list[Any], tmp_path: Path) -> None:
    from parallax.settings.sweep_file import SweepFile, point_words
    from parallax.tasks.sweep import _point_names

    sweep = SweepFile(Path("s.yaml"), "s", "grid", "", True, {"data.path": {"values": values}}, [], None)
    points = {tuple(point_words(point)): point for point in sweep.points()}
    names = _point_names(list(points.values()))
    assert len(points) == len({str(value) for value in values}) == len({name.casefold() for name in names})
