"""A multirun ends well: failing jobs stop no other and are listed, the shared work is told, the runs are compared."""

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from parallax.tasks import multirun, naming

ROOT = Path(__file__).parents[2]
SEEN: dict[str, Any] = {}


def job(cfg: DictConfig) -> float:
    """In the place of a task: leaves what a run leaves, and fails for seed 1."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    SEEN[folder.name] = {
        "name": naming.run_name({"method": {"name": "seva"}}),
        "group": naming.group_name(),
        "tags": naming.tag_words({"tags": ["a"], "method": {"name": "seva"}, "model": {"name": "tiny"}}),
    }
    if cfg.seed == 1:
        raise RuntimeError("the pairs of this job are of another world")
    (folder / "stages" / "align").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"pairs": {"built": 24 if cfg.seed == 0 else 0, "reused": 3}}))
    (folder / "stages" / "align" / "fit.json").write_text('{"references": {"computed": 2, "reused": 10}}')
    (folder / "stages" / "align" / "eval_before.json").write_text('{"meta": {"reused": ["chair"]}}')
    return float(cfg.seed)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    """`python run.py -m …` in this process; returns its status."""
    monkeypatch.setattr(multirun, "run_task", job)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), "-m", *words, f"hydra.sweep.dir={folder}"])
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    try:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_failing_job_stops_no_other_and_the_end_lists_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compared: list[Path] = []
    monkeypatch.setattr(multirun, "_compare", lambda folders, out: compared.extend(folders))
    assert run(monkeypatch, tmp_path, "seed=0,1,2", "tags=[x]") == 1
    said = capfd.readouterr()
    assert compared == [tmp_path / "0", tmp_path / "2"]
    assert (
        "job 0, seed=0: difference/chair_i 0 (" in said.out
        and "job 1, seed=1: failed, the pairs of this job" in said.err
    )
    assert "2 runs: answers 24 generated, 6 reused; reference log-probs 4 computed, 20 reused" in said.out
    assert "evaluations 0 made, 2 reused" in said.out
    assert said.err.rstrip().endswith("1 of 3 jobs failed:\n  job 1: the pairs of this job are of another world")
    left = json.loads((tmp_path / "1" / "failure.json").read_text())
    assert "RuntimeError" in left["trace"] and left["reason"] == multirun.failure_in(tmp_path / "1")
    assert SEEN["0"]["name"] == "seed=0" and SEEN["0"]["tags"] == ["a", "seva", "tiny", "shapes"]
    assert SEEN["0"]["group"].endswith(tmp_path.name)


def test_jobs_that_went_on_elsewhere_are_compared_and_their_failures_told(tmp_path: Path) -> None:
    """A multirun given again: its first job was finished before, its second goes on and fails, its third is made here."""
    before, now = tmp_path / "before", tmp_path / "now"
    (before / "0").mkdir(parents=True)
    (now / "0").mkdir(parents=True)
    (now / "0" / "elsewhere.json").write_text(json.dumps({"folder": str(before / "0")}))
    multirun.note_failure(now / "1", RuntimeError("there was no room for the second job"))
    (now / "2" / ".hydra").mkdir(parents=True)
    (now / "2" / ".hydra" / "overrides.yaml").write_text("[]")
    jobs = sorted(multirun.jobs_in(now))
    assert [job.name for job in jobs] == ["0", "1", "2"] and [multirun.failure_in(job) != "" for job in jobs] == [
        False,
        True,
        False,
    ]
    assert [multirun.place_of(job) for job in (jobs[0], jobs[2])] == [before / "0", now / "2"]


def test_an_experiment_brings_its_grid_and_typed_values_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multirun, "_compare", lambda folders, out: None)
    assert run(monkeypatch, tmp_path / "whole", "experiment=sweep_beta") == 0
    assert len(list((tmp_path / "whole").glob("*/results.json"))) == 4
    assert SEEN["3"] == {"name": "loss.beta=3.0", "group": "sweep_beta", "tags": ["a", "seva", "tiny", "shapes"]}
    assert run(monkeypatch, tmp_path / "part", "experiment=sweep_beta", "loss.beta=0.2,0.4") == 0
    assert [path.name for path in sorted((tmp_path / "part").glob("[0-9]*"))] == ["0", "1"]
    capfd.readouterr()
    assert run(monkeypatch, tmp_path / "bad", "experiment=sweep_beta", "optim.lr=-1") == 2
    assert "(job with loss.beta=0.1)" in capfd.readouterr().err and not (tmp_path / "bad").exists()


def test_a_job_returns_its_metric_or_nan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(multirun, "is_multirun", lambda: True)
    monkeypatch.setattr(multirun, "check", lambda cfg: None)
    monkeypatch.setattr(multirun, "own_words", list)

    class Now:
        class job:
            num = 7

        class runtime:
            output_dir = str(tmp_path)

        sweeper: ClassVar[dict[str, str]] = {}

    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: Now))
    monkeypatch.setattr(multirun, "run_task", lambda cfg: 0.25)
    assert multirun.run_job(DictConfig({"optimized_metric": "after/accuracy"})) == 0.25

    def fails(cfg: DictConfig) -> float:
        raise MemoryError

    monkeypatch.setattr(multirun, "run_task", fails)
    assert (
        math.isnan(multirun.run_job(DictConfig({"optimized_metric": "after/accuracy"})))
        and multirun.failure_in(tmp_path) == "MemoryError"
    )
    monkeypatch.setattr(multirun, "run_task", lambda cfg: 0.5)
    assert multirun.run_job(DictConfig({"optimized_metric": "after/accuracy"})) == 0.5 and not multirun.failure_in(
        tmp_path
    )


def test_a_comparison_that_fails_costs_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "results.json").write_text("{")
    (tmp_path / "0" / "config.yaml").write_text("seed: [")
    multirun._compare([tmp_path / "0" / "nowhere"], tmp_path)
    assert "could not be compared" in capsys.readouterr().err
