"""`python run.py …` as people type it: real processes. Quick answers import nothing heavy, and mistakes cost no model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "pytorch_lightning",
    "wandb",
    "datasets",
    "pandas",
    "pyarrow",
    "numpy",
}


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run the program in a folder of its own; returns the process and the packages it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=600, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in lines if line.startswith("import time:")}
    done.stderr = "\n".join(line for line in lines if not line.startswith("import time:"))
    return done, imported


def test_help_reads_like_documentation_and_imports_nothing_heavy(tmp_path: Path) -> None:
    done, imported = run(tmp_path, "--help")
    assert done.returncode == 0 and not done.stderr
    assert not imported & HEAVY
    for part in ("USAGE", "EXAMPLES", "GROUPS", "KEYS USED MOST", "python run.py method=seva aug.noise_steps=500"):
        assert part in done.stdout
    for group in (
        "method: bpo, continual_sft, csr, dpo_file",
        "loss: apo_down, ",
        "model: gemma3_4b, hub",
        "trainer: auto, cpu",
    ):
        assert group in done.stdout
    assert "$" not in done.stdout, "an unfilled placeholder"
    assert (
        max(
            len(line)
            for line in done.stdout.splitlines()
            if not re.match(r"\s*(aug|data|evaluation|experiment|loss|method|model|study|task): ", line)
        )
        <= 140
    )


def test_the_configuration_is_printed_without_importing_anything_heavy(tmp_path: Path) -> None:
    done, imported = run(
        tmp_path, "method=seva", "aug.noise_steps=700", "stages.align.optim.lr=1e-6", "--cfg", "job", "--resolve"
    )
    assert done.returncode == 0 and not done.stderr
    assert not imported & HEAVY
    cfg = OmegaConf.create(done.stdout)
    assert cfg.stages.align.proposer.view.noise_steps == 700
    assert cfg.stages.align.optim.lr == 1e-6
    assert cfg.model.path == str(ROOT / "assets" / "tiny_llava")
    assert not list(tmp_path.iterdir()), "looking at the configuration left something behind"


def test_all_mistakes_are_told_at_once_without_importing_anything_heavy(tmp_path: Path) -> None:
    done, imported = run(tmp_path, "los.beta=1", "loss.beta=-1", "aug.noise_steps=1500", "lora.r=0")
    assert done.returncode == 2 and not done.stdout
    assert not imported & HEAVY
    first, *problems = done.stderr.splitlines()
    assert first == "The configuration has 4 problems:" and len(problems) == 4
    for words in (
        "There is no key los.beta (given as los.beta=1). Did you mean loss.beta?",
        "loss.beta=-1 is not allowed: it must be a number above 0.",
        "aug.noise_steps=1500 is not allowed: it must be an integer from 0 to 999.",
        "lora.r=0 is not allowed: it must be an integer from 1 to 65536.",
    ):
        assert any(words in problem for problem in problems), words
    assert not list(tmp_path.iterdir()), "a refused run left a folder behind"


def test_a_wrong_choice_is_told_without_importing_anything_heavy(tmp_path: Path) -> None:
    done, imported = run(tmp_path, "method=sevva")
    assert done.returncode == 2 and not imported & HEAVY
    assert "method=sevva is no choice of method. Did you mean seva" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2


def test_a_multirun_with_one_bad_job_starts_no_job(tmp_path: Path) -> None:
    done, imported = run(tmp_path, "-m", "experiment=quick", "loss.beta=0.1,-1")
    assert done.returncode == 2 and not imported & HEAVY
    assert "(job with loss.beta=-1)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_hydra_itself_refuses_comes_as_a_sentence_too(tmp_path: Path) -> None:
    done, imported = run(tmp_path, "hydra/launcher=nowhere")
    assert done.returncode == 2 and not imported & HEAVY
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("words", [("hydra.run.dir={}/run",), ("-m", "hydra.sweep.dir={}", "seed=0,1")])
def test_a_run_folder_that_cannot_be_made_is_a_sentence(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("in the way")
    done, _ = run(tmp_path, *(word.format(tmp_path / "a_file") for word in words))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The run stopped: the run folder " in done.stderr and "a_file" in done.stderr


def test_a_look_at_runs_wants_runs(tmp_path: Path) -> None:
    done, imported = run(tmp_path, "task=analyse")
    assert done.returncode == 2 and not imported & HEAVY
    assert "add task.runs=[<run folder>,…] to the command." in done.stderr


@pytest.mark.slow
def test_a_multirun_makes_one_folder_for_each_job(tmp_path: Path) -> None:
    done, _ = run(tmp_path, "-m", "task=show_views", "task.noise_steps=[500]", "task.side=32", "seed=0,1")
    assert done.returncode == 0, done.stderr
    (time,) = (tmp_path / "multirun").glob("*/*")
    for job in ("0", "1"):
        assert (time / job / "views.png").stat().st_size > 1000


def test_completion_offers_groups_choices_and_keys(tmp_path: Path) -> None:
    """The script for bash is printed, and a shell's question (`-sc query=bash`) is answered with what may follow."""
    done, _ = run(tmp_path, "-sc", "install=bash")
    assert done.returncode == 0 and "hydra_bash_completion" in done.stdout
    for typed, offered in (("meth", "method="), ("method=se", "method=seva"), ("loss.be", "loss.beta=")):
        asked = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), "-sc", "query=bash"],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COMP_LINE": f"python run.py {typed}"},
        )  # fmt: skip
        assert asked.returncode == 0 and offered in asked.stdout.split(), asked.stdout + asked.stderr


def test_hydras_own_options_answer(tmp_path: Path) -> None:
    for words, part in (
        (["--version"], "parallax "),
        (["--hydra-help"], "Hydra"),
        (["--info", "defaults"], "config"),
        (["stages.align.loss=stic", "--cfg", "hydra", "-p", "hydra.overrides.task"], "- stages.align.loss=stic"),
        (["stages.align.loss=stic", "--cfg", "hydra", "-p", "hydra.job.override_dirname"], "stages.align.loss=stic"),
    ):
        done, _ = run(tmp_path, *words)
        assert done.returncode == 0 and part in done.stdout, (words, done.stdout[-500:], done.stderr[-500:])
    assert not list(tmp_path.iterdir())
