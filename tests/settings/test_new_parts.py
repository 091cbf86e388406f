"""A part that somebody writes tomorrow is checked as well as ours, by what its own source says, before anything is loaded."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.types import RunMode

from parallax.settings.command_line import compose_checked, prepare
from parallax.settings.comments import CONF
from parallax.settings.errors import ConfigError
from parallax.settings.overrides import loader

ROOT = CONF.parent
OBJECTIVE = """
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal
import annotated_types
from annotated_types import Interval, MultipleOf
from lightning_modules.objectives import Objective
from parallax.settings import ranges
from parallax.settings.ranges import Positive, Share

Norm = Literal["sum", "mean"]

@dataclass(frozen=True)
class Plan:
    start: Positive

class _Base(Objective):
    pairs_only: ClassVar[bool] = True

class Softer(_Base):
    def __init__(self, beta: Positive = 0.1, margin: Annotated[float, Interval(ge=0, le=5)] = 0.0, norm: Norm = "sum",
                 base: "Objective | None" = None, weights: tuple[Share, Share] = (0.5, 0.5), steps: Literal[1, 2] = 1,
                 even: Annotated[int, annotated_types.Ge(2), MultipleOf(2)] = 2, rate: ranges.Positive = 1.0,
                 plan: Plan | None = None) -> None:
        self.beta = beta

    def losses(self, policy, reference, lengths):
        return policy[:, 0], {}
"""
VIEW = """
from dataclasses import dataclass
from typing import ClassVar
from augment.view import ActsOn, View
from parallax.settings.ranges import Share

@dataclass(frozen=True)
class Vignette(View):
    name: ClassVar[str] = "vignette"
    acts_on: ClassVar[ActsOn] = "tensor"
    strength: Share = 0.8
"""
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """Runs the program of a clone with two new parts in it and gives what it says on stderr."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("augment", "conf", "datamodules", "lightning_modules", "parallax"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", clone)
    (clone / "assets").symlink_to(ROOT / "assets")
    (clone / "lightning_modules/objectives/softer.py").write_text(OBJECTIVE)
    (clone / "augment/vignette.py").write_text(VIEW)
    (clone / "conf/loss/softer.yaml").write_text(
        "# Softer.\n_target_: lightning_modules.objectives.softer.Softer\nbeta: 0.1  # pull\n"
    )
    (clone / "conf/aug/vignette.yaml").write_text("# Dark corners.\n_target_: augment.vignette.Vignette\n")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "run.py", *words], cwd=clone, env={**os.environ, "PARALLAX_ROOT": str(clone)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == (2 if "--cfg" not in words else 0), done.stderr
        return done.stderr

    return run


def test_every_wrong_value_of_new_parts_is_refused_at_once_with_what_is_allowed(refused: Refused) -> None:
    said = refused(
        "loss=softer", "loss.beta=-1", "loss.margin=abc", "loss.norm=maen", "loss.weights=[0.5,2]", "loss.bta=3",
        "loss.base={_target_: augment.view.Identity}", "aug=vignette", "aug.strength=-7",
        "loss.steps=3", "loss.even=5", "loss.rate=0", "loss.plan={_target_: lightning_modules.objectives.softer.Plan, start: 0}",
    )  # fmt: skip
    assert "The configuration has 11 problems" in said
    for sentence in (
        "loss.beta=-1 is not allowed: it must be a number above 0. (beta: pull)",
        "loss.margin=abc is not allowed: it must be a number from 0 to 5.",
        "loss.norm=maen is not allowed: it must be one of sum, mean. Did you mean mean?",
        "loss.weights=[0.5, 2] is not allowed: it must be a list of 2 items, each a number from 0 to 1.",
        "There is no key loss.bta",
        "loss.steps=3 is not allowed: it must be one of 1, 2.",
        "loss.even=5 is not allowed: it must be an integer of 2 or more, a multiple of 2.",
        "loss.rate=0 is not allowed: it must be a number above 0.",
        "loss.plan.start=0 is not allowed: it must be a number above 0.",
        "loss.base names 'augment.view.Identity'",
        "aug.strength=-7 is not allowed: it must be a number from 0 to 1.",
    ):
        assert sentence in said, said


def test_what_a_new_class_says_about_itself_is_held_against_other_choices(refused: Refused) -> None:
    assert "pairs.num_negatives=3 does not go with Softer" in refused("loss=softer", "pairs.num_negatives=3")
    assert not refused("loss=softer", "loss.margin=2", "aug=vignette", "aug.strength=0.3", "--cfg", "job")


def test_a_new_view_stands_inside_others_by_its_name(refused: Refused) -> None:
    said = refused("aug=mixture", "aug.views=[diffusion, {name: vignette, strength: 2}]")
    assert "aug.views.1.strength=2 is not allowed: it must be a number from 0 to 1." in said


def problems_of(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        prepare([*words, "--cfg", "job"], CONF)
    return caught.value.problems


def test_a_class_is_checked_under_its_own_module_as_under_its_re_export() -> None:
    other = "loss._target_=lightning_modules.objectives.base.DPO"
    assert compose_checked([other], CONF).loss.label_smoothing == 0, "it keeps what conf/ says of the class"
    (problem,) = problems_of(other, "loss.beta=-1")
    assert problem.startswith("loss.beta=-1 is not allowed: it must be a number above 0.")
    (problem,) = problems_of(other, "pairs.num_negatives=3")
    assert problem.startswith("pairs.num_negatives=3 does not go with DPO")


def test_positional_arguments_are_held_to_the_same_rules() -> None:
    node = "{_target_: lightning_modules.objectives.Hinge, _args_: [-1, 3]}"
    problems = problems_of(f"loss={node}")
    assert any(
        problem.startswith("loss._args_.0=-1 is not allowed: it must be a number above 0") for problem in problems
    )
    assert any("loss._args_ holds one argument too many: 3" in problem for problem in problems)


def test_a_node_whose_target_changes_is_another_node(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - seva\n  - override /judge: self_critic\n  - _self_\n"
        "method:\n  name: mine\nstages:\n  align:\n    proposer:\n"
        "      _target_: parallax.preference.proposers.sampled.Sampled\n"
        "      num_samples: 2\n      max_new_tokens: 9\n      temperature: 0.8\n      top_p: 0.9\n"
    )
    prepare(["--config-dir", str(tmp_path), "method=mine", "--cfg", "job"], CONF)
    cfg = loader(CONF, str(tmp_path)).load_configuration("config", ["method=mine"], run_mode=RunMode.RUN)
    assert dict(cfg.stages.align.proposer) == {
        "_target_": "parallax.preference.proposers.sampled.Sampled", "num_samples": 2, "max_new_tokens": 9,
        "temperature": 0.8, "top_p": 0.9,
    }  # fmt: skip
    cfg = compose_checked(["loss=stic", "loss._target_=lightning_modules.objectives.IPO", "loss.beta=0.2"], CONF)
    assert dict(cfg.loss) == {"_target_": "lightning_modules.objectives.IPO", "beta": 0.2}
    cfg = compose_checked(["loss._target_=lightning_modules.objectives.DPO", "loss.beta=0.3"], CONF)
    assert cfg.loss.beta == 0.3 and "label_smoothing" in cfg.loss, "the same class keeps what is said of it"
