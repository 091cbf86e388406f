"""Multiruns whose jobs other programs start: joblib, submitit on this machine, submitit through Slurm. Real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parallax.reports.metrics_csv import read_metrics
from tests.tasks.slurm_here import put_slurm
from tests.tasks.test_align import SMALL

ROOT = Path(__file__).parents[2]
VIEWS = ("task=show_views", "task.noise_steps=[500]", "task.side=32", "seed=0,1")


def multirun(folder: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python run.py -m …`, with our code found first by the processes that it starts."""
    command = [sys.executable, str(ROOT / "run.py"), "-m", *words, f"hydra.sweep.dir={folder}"]
    given = environment or os.environ
    found_first = os.pathsep.join(filter(None, [str(ROOT), given.get("PYTHONPATH")]))
    environment = {**given, "PYTHONPATH": found_first}
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=1200, env=environment)


@pytest.mark.slow
def test_joblib_runs_the_jobs_side_by_side(tmp_path: Path) -> None:
    done = multirun(tmp_path / "all", *VIEWS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    for job in ("0", "1"):
        assert (tmp_path / "all" / job / "views.png").stat().st_size > 1000
        assert f"job {job}: seed={job}" in done.stdout


@pytest.mark.slow
def test_submitit_starts_jobs_on_this_machine_and_a_failing_one_is_told(tmp_path: Path) -> None:
    words = ["task=show_views", "task.noise_steps=[500]", "task.side=32", f"task.image={tmp_path / 'a.png'},null"]
    done = multirun(tmp_path / "all", *words, "hydra/launcher=submitit_local")
    assert done.returncode == 1, done.stderr
    assert "1 of 2 jobs failed" in done.stderr and "a.png" in done.stderr
    assert (tmp_path / "all/1/views.png").stat().st_size > 1000
    assert list((tmp_path / "all/.submitit").glob("*/*_submitted.pkl"))


@pytest.mark.slow
def test_a_job_under_slurm_is_a_run_of_the_processes_that_slurm_starts(tmp_path: Path) -> None:
    """Two processes with sharded weights learn what one process learns; the sbatch file asks for them."""
    small = [
        *SMALL,
        "evaluation.when=[]",
        "trainer=fsdp2",
        "trainer.accelerator=cpu",
        f"paths.cache_dir={tmp_path / 'cache'}",
    ]
    slurm = ["hydra/launcher=slurm_8gpus", "hydra.launcher.tasks_per_node=2", "hydra.launcher.partition=long"]
    done = multirun(
        tmp_path / "two", *small, "trainer.devices=2", "seed=3", *slurm, environment=put_slurm(tmp_path / "bin")
    )
    assert done.returncode == 0, done.stderr
    (script,) = (tmp_path / "two/.submitit").glob("*/*_submission.sh")
    said = script.read_text()
    for line in ("nodes=1", "ntasks-per-node=2", "gpus-per-node=8", "cpus-per-task=8", "partition=long", "time=1440"):
        assert f"#SBATCH --{line}\n" in said
    assert "srun" in said
    one = multirun(tmp_path / "one", *small, "trainer.devices=1", "seed=3")
    assert one.returncode == 0, one.stderr
    losses = [
        [row["train/loss"] for row in read_metrics(tmp_path / name / "0/stages/align/metrics.csv")]
        for name in ("one", "two")
    ]
    assert [float(loss) for loss in losses[1]] == pytest.approx([float(loss) for loss in losses[0]], rel=1e-5)
    kept = [json.loads((tmp_path / name / "0/results.json").read_text())["pairs"]["kept"] for name in ("one", "two")]
    assert kept[0] == kept[1] > 0
    assert (tmp_path / "two/0/run-1.log").is_file()
