"""Sweep files: what `wandb agent` would type is what this program takes, for the built-in world and for the paper's models."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from parallax.settings.check import find_problems
from parallax.settings.command_line import compose_checked
from parallax.settings.comments import CONF
from parallax.settings.errors import ConfigError
from parallax.settings.sweep_file import SweepFile, point_words, read_sweep
from tests.settings.agent import agent_words, first_and_last, papers_grid

FOLDER = CONF.parent / "sweeps"
FILES = sorted(FOLDER.glob("*.yaml"))
NAMES = ("alpha", "beta", "full", "lora_rank", "negatives", "noise_steps", "views")
Compose = Callable[..., DictConfig]


def test_the_seven_sweeps_are_there() -> None:
    assert tuple(path.stem for path in FILES) == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_agent_types_what_this_program_takes(path: Path, compose_config: Compose, tmp_path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    content = load_sweep_config(str(path))
    assert content is not None and content["name"] == path.stem
    for point in first_and_last(content):
        words = agent_words(content, point)
        assert words[:3] == ["/usr/bin/env", "python", "run.py"] and "logger=wandb" in words
        cfg = compose_checked(words[3:], CONF)
        for key, value in point.items():
            node = OmegaConf.select(cfg, key)
            assert "_target_" in node if key == "aug" else node == value
        sweep = read_sweep(path)
        assert [*sweep.words, *point_words(point)] == words[3:], "the local runner types the same"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_papers_grid_in_the_comments_is_a_sweep_for_a_real_model(path: Path) -> None:
    content = yaml.safe_load(papers_grid(path.read_text()))
    for point in first_and_last(content):
        words = [re.sub(r"=None$", "=null", f"++{word}" if "." in word.partition("=")[0] else word)
                 for word in agent_words(content, point)[3:]]  # fmt: skip
        from hydra import compose, initialize_config_dir

        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", overrides=words)
        assert find_problems(cfg, complete=False) == {}
        assert cfg.model.name == "llava15_7b" and "coco_pope" in cfg.evaluation.suites


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_starts_with_what_it_answers_and_how_to_run_it(path: Path) -> None:
    comment = [line for line in path.read_text().splitlines()[:9] if line.startswith("#")]
    assert "?" in comment[0] and any(f"wandb sweep sweeps/{path.name}" in line for line in comment)
    assert any(f"experiment=sweep_{path.stem}" in line for line in comment)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "full"], ids=lambda path: path.stem)
def test_the_same_grid_is_an_experiment_for_a_multirun(path: Path) -> None:
    experiment = OmegaConf.load(CONF / "experiment" / f"sweep_{path.stem}.yaml")
    params = {key.lstrip("+"): str(values).split(",") for key, values in experiment.hydra.sweeper.params.items()}
    sweep = read_sweep(path)
    assert params == {key: [str(value) for value in node["values"]] for key, node in sweep.parameters.items()}
    method = next(word for word in sweep.words if word.startswith("method="))
    chosen = [str(node) for node in experiment.get("defaults", [])]
    assert any(method.partition("=")[2] in node for node in chosen) or method == "method=seva"


def sweep_of(tmp_path: Path, text: str) -> SweepFile:
    path = tmp_path / "own.yaml"
    path.write_text("program: run.py\ncommand: ['${program}', a=1, '${args_no_hyphens}']\n" + text)
    return read_sweep(path)


def test_a_grid_is_listed_in_order_and_typed_keys_are_not_swept(tmp_path: Path) -> None:
    grid = "method: grid\nparameters: {x.a: {values: [1, 2]}, b: {min: 3, max: 5}, c: {value: null}}\n"
    sweep = sweep_of(tmp_path, grid)
    assert len(sweep.points()) == 6 and sweep.points()[1] == {"x.a": 1, "b": 4, "c": None}
    assert sweep.points(fixed=frozenset({"b"})) == [{"x.a": 1, "c": None}, {"x.a": 2, "c": None}]
    assert point_words(sweep.points()[0]) == ["x.a=1", "b=3", "c=None"] and sweep.words == ["a=1"]


def test_a_random_sweep_draws_the_same_points_for_the_same_seed_within_its_ranges(tmp_path: Path) -> None:
    text = """method: random
run_cap: 40
parameters:
  n: {min: 2, max: 5}
  u: {min: 0.5, max: 1.5}
  l: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-3}
  q: {distribution: q_uniform, min: 0, max: 1, q: 0.25}
  v: {values: [x, y], probabilities: [0.0, 1.0]}
"""
    sweep = sweep_of(tmp_path, text)
    points = sweep.points(seed=1)
    assert points == sweep.points(seed=1) != sweep.points(seed=2) and len(points) == 40
    assert {p["n"] for p in points} == {2, 3, 4, 5} and {p["v"] for p in points} == {"y"}
    assert all(0.5 <= p["u"] <= 1.5 and 1e-5 <= p["l"] <= 1e-3 and p["q"] % 0.25 == 0 for p in points)
    assert sum(p["l"] < 1e-4 for p in points) > 10, "half of a log-uniform range lies below its middle decade"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: bayes\nparameters: {a: {values: [1]}}\n", "Use `wandb sweep .*` and then `wandb agent`"),
        ("method: grid\nparameters: {a: {min: 0.1, max: 0.2}}\n", "a grid needs `values` for a"),
        ("method: random\nparameters: {a: {min: 1e-5, max: 1.0}}\n", "YAML takes 1e-5 for a word"),
        ("method: random\nparameters: {a: {distribution: beta, min: 0.1, max: 1.0}}\n", "drawn from beta"),
        ("method: grid\nparameters: {a: {parameters: {b: {value: 1}}}}\n", "write dotted keys"),
        ("method: grid\n", "no `parameters`"),
    ],
)
def test_what_is_not_run_here_is_said_in_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep_of(tmp_path, text).points()


def test_a_command_that_hydra_cannot_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "program: run.py\nmethod: grid\nparameters: {a: {values: [1]}}\ncommand: ['${program}', '${args}']\n"
    )
    with pytest.raises(ConfigError, match="must hold .*args_no_hyphens"):
        read_sweep(path)
