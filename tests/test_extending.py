"""docs/extending.md holds: a new view, judge and method are each one file of code at most and one of configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the program to extend."""
    for name in ("augment", "conf", "datamodules", "lightning_modules", "parallax"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    return tmp_path


def block(language: str, containing: str) -> str:
    """The first fenced block of the document in `language` that holds a phrase."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return next(text for text in blocks if containing in text)


def run(checkout: Path, *words: str) -> str:
    environment = {**os.environ, "PARALLAX_ROOT": str(checkout), "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_view_is_one_file_and_one_config(checkout: Path) -> None:
    (checkout / "augment/vignette.py").write_text(block("python", "class Vignette"))
    (checkout / "conf/aug/vignette.yaml").write_text(block("yaml", "augment.vignette.Vignette"))
    assert "augment.vignette.Vignette" in run(checkout, "run.py", "aug=vignette", "--cfg", "job")
    code = (
        "import torch; from augment.view import generator_for; from augment.registry import view_from_spec, spec_of\n"
        "from parallax.records import ViewSpec\n"
        "view = view_from_spec(ViewSpec('vignette', {'strength': 1.0}))\n"
        "out = view.on_tensor(torch.ones(3, 5, 5), generator_for(0))\n"
        "print(float(out[0, 2, 2]), float(out[0, 0, 0]), spec_of(view, 7).seed)"
    )
    assert run(checkout, "-c", code).split() == ["1.0", "0.0", "0"]


def test_a_misspelt_argument_of_a_new_view_is_refused(checkout: Path) -> None:
    (checkout / "augment/vignette.py").write_text(block("python", "class Vignette"))
    (checkout / "conf/aug/vignette.yaml").write_text(block("yaml", "augment.vignette.Vignette"))
    environment = {**os.environ, "PARALLAX_ROOT": str(checkout)}
    done = subprocess.run(
        [sys.executable, "run.py", "aug=vignette", "aug.strenght=1"],
        cwd=checkout, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "aug.strength" in done.stderr


def test_a_judge_and_a_method_are_each_one_config(checkout: Path) -> None:
    (checkout / "parallax/preference/judges/brevity.py").write_text(block("python", "class Brevity"))
    (checkout / "conf/judge/brevity.yaml").write_text(
        "# Prefers short answers.\n_target_: parallax.preference.judges.brevity.Brevity\n"
    )
    method = block("yaml", "name: my_method").replace(
        "parallax.preference.proposers.my_proposer.MyProposer", "parallax.preference.proposers.by_view.ByView"
    )
    (checkout / "conf/method/my_method.yaml").write_text(method)
    shown = run(checkout, "run.py", "method=my_method", "judge=brevity", "--cfg", "job")
    assert "name: my_method" in shown and "judges.brevity.Brevity" in shown and "objectives.Stic" in shown
