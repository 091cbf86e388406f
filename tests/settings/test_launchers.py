"""A multirun whose jobs have several processes is refused before anything is loaded, with a command that does it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from parallax.settings import launchers
from parallax.settings.command_line import prepare
from parallax.settings.errors import ConfigError
from parallax.settings.extras import install
from tests.tasks.test_align import SMALL

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
POINTS = ("loss.beta=0.1,0.3", "seed=0,1")


def problem(*words: str) -> str:
    """What `python run.py <words>` says instead of starting; empty where it starts."""
    try:
        prepare(words, CONF)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("trainer", "launcher"),
    [("ddp", []), ("fsdp2", ["hydra/launcher=joblib"]), ("ddp", ["hydra/launcher=submitit_local"])],
)
def test_processes_that_would_begin_the_sweep_anew_are_refused(trainer: str, launcher: list[str]) -> None:
    words = [f"trainer={trainer}", "trainer.devices=2", "trainer.accelerator=cpu"]
    said = problem("-m", *words, *launcher, *POINTS)
    assert "-m does not go with jobs of 2 processes" in said
    points = "'loss.beta=0.1 seed=0' 'loss.beta=0.1 seed=1' 'loss.beta=0.3 seed=0' 'loss.beta=0.3 seed=1'"
    assert f"for point in {points}; do python run.py {' '.join(words)} $point; done" in said
    assert not problem("-m", f"trainer={trainer}", "trainer.devices=1", *launcher)


def test_every_way_into_a_multirun_is_seen() -> None:
    two = ("trainer=ddp", "trainer.devices=2")
    assert "jobs of 2" in problem("-m", "trainer.devices=1,2")
    assert "jobs of 2" in problem("hydra.mode=MULTIRUN", *two)
    said = problem("experiment=sweep_beta", *two)
    assert "experiment=sweep_beta trainer=ddp trainer.devices=2 hydra.mode=RUN $point" in said
    assert not problem("experiment=sweep_beta", *two, "hydra.mode=RUN", "loss.beta=0.1")
    assert "torchrun … run.py" in problem("-m", "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2")
    assert not problem("-m", "task=show_views", *two, "seed=0,1")  # one process, whatever the trainer


def test_the_number_of_gpus_decides_where_the_trainer_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert "jobs of 3 processes" in problem("-m", "trainer=ddp")
    every = {"devices": "auto", "num_nodes": 1, "accelerator": "auto"}
    for gpus, accelerator, count in (
        ("0", "auto", 1),
        ("", "auto", 1),
        ("", "gpu", 0),
        ("0,1", "cpu", 1),
        ("0,1", "gpu", 2),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        assert launchers.processes_of({**every, "accelerator": accelerator}) == count
    assert launchers.processes_of({**every, "devices": 4, "num_nodes": 2}) == 8


def test_slurm_and_the_trainer_have_to_agree() -> None:
    assert "Use trainer=ddp trainer.devices=8 trainer.num_nodes=1" in problem("-m", "hydra/launcher=slurm_8gpus")
    eight = ("-m", "trainer=fsdp2", "trainer.devices=8")
    assert not problem(*eight, "hydra/launcher=slurm_8gpus")
    assert not problem("-m", "trainer=ddp", "hydra/launcher=slurm_8gpus")  # as many as there are GPUs
    said = problem(*eight, "hydra/launcher=slurm_4nodes")
    assert "Use trainer.devices=8 trainer.num_nodes=4" in said
    assert not problem(*eight, "hydra/launcher=slurm_4nodes", "trainer.num_nodes=4", "trainer.batch_size=32")
    assert "or hydra.launcher.tasks_per_node=8" in problem(*eight, "hydra/launcher=submitit_slurm")
    assert "known only on the machine" in problem("-m", "trainer=ddp", "hydra/launcher=submitit_slurm")
    assert not problem(
        "-m", "trainer=gpu", "seed=0,1", "hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=1"
    )


def test_torchrun_does_not_start_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun … run.py trainer=ddp $point" in problem("-m", "trainer=ddp", "seed=0,1")


@pytest.mark.parametrize(
    ("name", "extra"), [("joblib", "joblib"), ("submitit_local", "slurm"), ("slurm_4nodes", "slurm")]
)
def test_a_launcher_that_is_not_installed_is_told_with_what_installs_it(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not launchers.missing_plugin(f"hydra/launcher={name}") and not launchers.missing_plugin(
        "hydra/launcher=basic"
    )
    monkeypatch.setattr(launchers, "find_spec", lambda module: None)
    assert f"{install(extra)} (our extra `{extra}`)." in problem(f"hydra/launcher={name}", "-m", "seed=0,1")


def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)


def test_the_command_line_stops_in_words_before_anything_is_loaded(tmp_path: Path) -> None:
    words = ["-m", "trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1"]
    done = run(tmp_path, [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *words])
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(told) == 2 and "$point; done" in told[1]
    assert not re.search(r"\| +(torch|transformers|pytorch_lightning)$", done.stderr, re.MULTILINE)
    assert not list(tmp_path.iterdir())


STARTED = {  # how `-m` is begun, and what stands for it in the loop that is told
    "python run.py": ([sys.executable], f"{sys.executable} {ROOT / 'run.py'}"),
    "torchrun … run.py": (TORCHRUN, f"{' '.join(TORCHRUN)} {ROOT / 'run.py'}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("program", STARTED)
def test_the_command_that_is_told_runs_each_point_once(tmp_path: Path, program: str) -> None:
    """Taken as it is printed, but for where python and run.py lie, and for torchrun's own words, which stand as dots."""
    small = [
        *SMALL,
        "evaluation.when=[]",
        "trainer=fsdp2",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "paths.cache_dir=cache",
    ]
    begun, real = STARTED[program]
    done = run(tmp_path, [*begun, str(ROOT / "run.py"), "-m", *small, "loss.beta=0.1,0.3"])
    assert done.returncode != 0 and not list(tmp_path.iterdir())
    command, *others = set(re.findall(r"each point: (.*?; done)\.", done.stderr))  # every process of torchrun's says it
    assert not others and program in command
    done = subprocess.run(
        ["bash", "-ec", command.replace(program, real)],
        cwd=tmp_path, capture_output=True, text=True, timeout=1200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = sorted(tmp_path.glob("outputs/*/*/results.json"))
    assert len(results) == 2 and not (tmp_path / "multirun").exists()
    for folder, beta in zip([path.parent for path in results], (0.1, 0.3), strict=True):
        assert yaml.safe_load((folder / "config.yaml").read_text())["loss"]["beta"] == beta
        assert "process 2 of 2" in (folder / "run-1.log").read_text()
        assert (folder / "stages/align/adapter/adapter_model.safetensors").is_file()
