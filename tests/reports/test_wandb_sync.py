"""`wandb sync` of what runs logged offline, as a real process against a server that keeps what it is sent."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parallax.reports import wandb_before
from parallax.reports.loggers import build_loggers, close_loggers, log_metrics
from parallax.reports.metrics_csv import curve, read_metrics
from parallax.reports.pairs_table import log_pairs
from tests.reports import wandb_file
from tests.reports.test_loggers import bare_environment, pairs  # noqa: F401  (a fixture for every test)
from tests.reports.wandb_server import Server, SyncedRun, server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wandb_server() -> Iterator[Server]:
    with server() as here:
        yield here


def wait_for_end(file: Path, seconds: float = 60) -> None:
    """W&B's own process writes the end of a run a moment after the run is finished."""
    end = time.monotonic() + seconds
    while not any(record.HasField("exit") for record in wandb_file.records(file)):
        assert time.monotonic() < end, f"{file} has no end after {seconds:g} s"
        time.sleep(0.2)


def synced(wandb_server: Server, folder: Path) -> SyncedRun:
    """The one run of a run folder, after `wandb sync` of all its offline files."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    wait_for_end(files[-1])
    wandb_server.sync([file.parent for file in files], folder / "wandb-home")
    (run,) = wandb_server.runs.values()
    return run


def steps_of(run: SyncedRun, metric: str, axis: str = "trainer/global_step") -> list[int]:
    return [row[axis] for row in run.history if metric in row]


def test_all_that_a_dashboard_shows_arrives(wandb_server: Server, tmp_path: Path) -> None:
    folder, config = (
        tmp_path / "run",
        {"loss": {"beta": 0.1}, "aug": {"name": "diffusion", "noise_steps": 500}, "tags": []},
    )
    (tmp_path / "images").mkdir()
    loggers = build_loggers(
        {"wandb": {"mode": "offline"}}, run_folder=folder, config=config, name="steps", group="sweep s", job_type="seva",
        tags=["first"],
    )  # fmt: skip
    log_pairs(loggers, pairs(tmp_path / "images", 4), limit=3)
    for step in range(5):
        for logger in loggers:
            logger.log_metrics({"train/loss": 0.7 / (step + 1), "eval/chair_i": 0.2 - step / 100}, step)
    log_metrics(loggers, {"eval/chair_i": 0.05, "eval/accuracy": 0.5, "margin": 2.0, "pairs/kept": 3})
    close_loggers(loggers)
    file = wandb_file.only_file(folder)
    run = synced(wandb_server, folder)

    assert run.exit_codes == [0] and len(run.history) == len(wandb_file.history(file)), "every row, none twice"
    assert steps_of(run, "train/loss") == [0, 1, 2, 3, 4]
    assert {name: run.config[name] for name in config} == config
    about = {"displayName": "steps", "groupName": "sweep s", "jobType": "seva", "tags": ["first"]}
    assert {name: run.about[name] for name in about} == about
    for name in ("eval/chair_i", "eval/accuracy", "margin", "pairs/kept", "best/chair_i"):
        assert run.summary[name] == wandb_file.summary(file)[name], name
    assert (run.summary["eval/chair_i"], run.summary["best/chair_i"]) == (0.05, {"min": 0.05})
    axes = str(run.about["config"]).replace(" ", "")  # wandb 0.31 sends the pattern, those before it each name
    assert '"2":"train/*"' in axes or '"1":"train/loss"' in axes, "curves have their axis"

    (table,) = (made for made in wandb_server.artifacts.values() if made.kind == "run_table")
    assert table.committed and len([name for name in table.files if name.endswith(".jpg")]) == 6, (
        "clean and corrupted, of 3"
    )
    (shown,) = (json.loads(content) for name, content in table.files.items() if name.endswith(".table.json"))
    assert len(shown["data"]) == 3 and any("⟦red⟧" in str(row) for row in shown["data"])
    cells = [cell["path"] for row in shown["data"] for cell in row if isinstance(cell, dict)]
    assert len(cells) == 6 and set(cells) <= set(table.files), "each picture that a cell names is there"
    assert run.summary["pairs"]["_type"] == "table-file"


PART = """
import os, sys, time
from pathlib import Path
from parallax.reports import wandb_run
from parallax.reports.loggers import begin_stage, build_loggers, close_loggers
folder, stage, first, end, crash = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
if crash == "lost":
    wandb_run.WRITE_SECONDS = 1000  # nothing but the start of the run gets into W&B's file before the crash
loggers = build_loggers({"wandb": {"mode": "offline"}}, run_folder=folder, config={})
if stage:
    loggers[0].begin(stage)
    begin_stage(loggers, stage)
for step in range(first, end):
    for logger in loggers:
        logger.log_metrics({"train/loss": 1 / (step + 1)}, step)
        if step % 3 == 0:
            logger.log_metrics({"eval/chair_i": step / 100}, step)
if crash:
    time.sleep(0 if crash == "lost" else 3 * wandb_run.WRITE_SECONDS)
    os.kill(os.getpid(), 9)
close_loggers(loggers)
"""


def own_environment() -> dict[str, str]:
    """Without what W&B has put into this process's environment: its children would log through our W&B process."""
    kept = {name: value for name, value in os.environ.items() if "WANDB" not in name or name.endswith("_DIR")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def part(folder: Path, stage: str, first: int, end: int, crash: str = "") -> None:
    """A process that logs the steps from `first` to before `end`, and is then killed when told so."""
    words = [str(folder), stage, str(first), str(end), crash]
    done = subprocess.run(
        [sys.executable, "-c", PART, *words], capture_output=True, text=True, timeout=120,
        env=own_environment(),
    )  # fmt: skip
    assert done.returncode == (-9 if crash else 0), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("crash", "stage"), [("written", "align"), ("lost", "")])
def test_crash_and_resume_are_one_run_with_no_step_lost_and_none_twice(
    crash: str, stage: str, wandb_server: Server, tmp_path: Path
) -> None:
    """Killed after step 7, gone on from a checkpoint at step 5; W&B's file had all steps, or nothing at all."""
    folder = tmp_path / "run"
    part(folder, stage, 0, 8, crash)
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1 and len(wandb_file.history(files[0])) == (0 if crash == "lost" else 11)
    assert crash != "lost" or files[0].stat().st_size == wandb_before.HEAD, "not even the run's start is in it"
    part(folder, stage, 5, 12)
    run = synced(wandb_server, folder)
    prefix, axis = (f"{stage}/", f"{stage}/step") if stage else ("", "trainer/global_step")
    for metric in ("train/loss", "eval/chair_i"):
        steps, values = curve(read_metrics(folder / "metrics.csv"), metric)
        assert steps == (list(range(12)) if metric == "train/loss" else [0, 3, 6, 9])
        rows = [row for row in run.history if prefix + metric in row]
        assert [row[axis] for row in rows] == steps and [row[prefix + metric] for row in rows] == values
    numbers = [row["_step"] for row in run.history]
    assert numbers == list(range(len(numbers))), "W&B's own count goes on"
    assert run.exit_codes == ([0] if crash == "lost" else [1, 0])


def test_files_of_another_kind_cost_one_line_and_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wandb_id").write_text("abc\n")
    file = tmp_path / "wandb" / "offline-run-20260131_120000-abc" / "run-abc.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b":W&B\0\0\0" + bytes(4) + (5).to_bytes(2, "little") + b"\1" + b"words")
    assert wandb_before.last_steps(tmp_path, "abc") is None and "cannot be read" in caplog.text
    assert wandb_before.last_steps(tmp_path, "another") is None
    loggers = build_loggers({"wandb": {"mode": "offline"}}, run_folder=tmp_path, config={})
    loggers[1].log_metrics({"train/loss": 1.0}, 0)
    close_loggers(loggers)
    (made,) = (path for path in tmp_path.glob("wandb/offline-run-*/*.wandb") if path != file)
    wait_for_end(made)
    assert [row["train/loss"] for row in wandb_file.history(made)] == [1.0]


def names_of_sweep_files() -> set[str]:
    import yaml

    return {yaml.safe_load(path.read_text())["metric"]["name"] for path in (ROOT / "sweeps").glob("*.yaml")}


@pytest.mark.slow
def test_a_whole_run_asked_to_stop_and_gone_on_is_one_run_of_the_dashboard(
    wandb_server: Server, tmp_path: Path
) -> None:
    """SIGTERM in the middle of training, the same command again, then `wandb sync` of both parts."""
    command = [
        sys.executable, str(ROOT / "run.py"), "method=seva", "logger=wandb", "data.size=24", "trainer=cpu",
        "trainer.batch_size=4", "trainer.max_epochs=3", "evaluation.scenes=6", "evaluation.pope_scenes=1",
        "evaluation.bootstrap=20", f"paths.cache_dir={tmp_path / 'cache'}", "hydra.run.dir=run",
    ]  # fmt: skip
    environment = own_environment()
    folder = tmp_path / "run"
    first = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 300
    while max(curve(read_metrics(folder / "metrics.csv"), "train/loss")[0], default=-1) < 4:
        assert first.poll() is None and time.monotonic() < end, "it ended, or does not train"
        time.sleep(0.05)
    first.terminate()
    assert first.wait(120) != 0 and not (folder / "results.json").exists(), "it was stopped before its end"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    run = synced(wandb_server, folder)

    rows = read_metrics(folder / "metrics.csv")
    steps, values = curve(rows, "train/loss")
    found = [(row["trainer/global_step"], row["train/loss"]) for row in run.history if "train/loss" in row]
    assert found == list(zip(steps, values, strict=True)) and len(steps) > 6
    results = json.loads((folder / "results.json").read_text())
    for name in names_of_sweep_files() | {"eval/accuracy", "eval/pope_accuracy"}:
        assert run.summary[name] == results["after"][name.removeprefix("eval/")]["value"], name
    import yaml

    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key in ("loss", "aug", "lora", "optim", "method", "seed"):
        assert run.config[key] == config[key], f"{key} is as Hydra has it"
    tables = [made for made in wandb_server.artifacts.values() if made.kind == "run_table"]
    assert {name for name in ("pairs", "examples") if any(name in made.name for made in tables)} == {
        "pairs",
        "examples",
    }
    for made in tables:
        (shown,) = (json.loads(content) for name, content in made.files.items() if name.endswith(".table.json"))
        cells = [cell["path"] for row in shown["data"] for cell in row if isinstance(cell, dict) and "path" in cell]
        assert cells and set(cells) <= set(made.files) and made.committed
