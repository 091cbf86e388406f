"""conf/ is the public interface: everything in it is described, composes, and is known to the schema."""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from parallax.settings.check import find_problems
from parallax.settings.choices import choices, groups
from parallax.settings.comments import CONF, described_keys, title
from parallax.settings.schema import FILE_GROUPS, STAGE_GROUPS, group_keys, root
from parallax.settings.targets import signature
from parallax.settings.tasks import task_rule
from tests.figures import second_defaults

FILES = [file for file in sorted(CONF.rglob("*.yaml")) if file.relative_to(CONF).parts[0] not in ("hydra", "local")]
NEEDS = {
    "data=preference_file": ["method=dpo_file"],
    "judge=clip_calibrated": ["method=csr"],
    "asker=self_asked": ["prompts=self_made"],
    "task=evaluate": [],
    "experiment=make_tiny_llava": [],
    "loss=povid": ["method=povid", "method.stages=[noise]"],
}
CHOICES = [f"{group}={name}" for group in groups() for name in choices(group) if group not in FILE_GROUPS]
TOGETHER = (
    "aug",
    "evaluation",
    "loss",
    "model",
    "prompts",
)  # groups that ask nothing of each other: one composition tries five
ROWS = [
    [choice for choice in row if choice]
    for row in zip_longest(
        *([c for c in CHOICES if c.startswith(f"{group}=") and c not in NEEDS] for group in TOGETHER)
    )
] + [[c, *NEEDS.get(c, [])] for c in CHOICES if c.partition("=")[0] not in TOGETHER or c in NEEDS]
Compose = Callable[..., DictConfig]


def name_of(file: Path) -> str:
    return str(file.relative_to(CONF))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_key_has_a_comment(file: Path) -> None:
    keys = described_keys(file)
    names_are_free = [key.key for key in keys if key.comment and not key.value and key.key.endswith((".arms", ".mix"))]
    bare = [
        key.key
        for key in keys
        if key.value
        and not key.comment
        and not key.key.endswith((".views.name", "_partial_", "_args_"))
        and key.key.rpartition(".")[0] not in names_are_free
    ]
    assert not bare, f"no comment (meaning, unit, range) beside {', '.join(bare)}"


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "config.yaml"], ids=name_of)
def test_every_file_says_in_its_first_line_what_it_is_or_is_the_only_choice(file: Path) -> None:
    assert title(file) or len(choices(file.parent.name)) == 1


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "experiment"], ids=name_of)
def test_every_experiment_starts_with_its_command(file: Path) -> None:
    comments = [line for line in file.read_text().splitlines()[:10] if line.startswith("#")]
    commands = [line for line in comments if re.match(r"#\s+python run\.py .*experiment=", line)]
    assert commands, "the comment at the top has no line `python run.py experiment=…`"
    assert any(f"experiment={file.stem}" in line for line in commands)


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_every_choice_composes_and_passes_the_check(row: list[str], compose_config: Compose) -> None:
    problems = find_problems(compose_config(*row), complete=False)
    if row == ["trainer=deepspeed"] and find_spec("deepspeed") is None:
        assert list(problems) == ["trainer.strategy"] and "pip install" in problems["trainer.strategy"]
    else:
        assert problems == {}


def test_no_choice_is_left_out() -> None:
    assert set(CHOICES) <= {choice for row in ROWS for choice in row}


def test_every_choice_of_the_stage_groups_works_for_one_stage_alone(compose_config: Compose) -> None:
    composed = OmegaConf.to_container(compose_config(), resolve=False)
    for group in STAGE_GROUPS:
        for name in choices(group):
            node = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"), resolve=False)
            if f"{group}={name}" not in NEEDS and "defaults" not in node:
                own = OmegaConf.create({**composed, "stages": {"align": {**composed["stages"]["align"], group: node}}})
                assert find_problems(own, complete=False) == {}, f"stages.align.{group}={name}"


def test_groups_have_no_key_that_conf_does_not_have() -> None:
    described = {key.key for file in FILES for key in described_keys(file)}
    for key, rule in group_keys(root()).items():
        is_group = rule.kind in ("component", "mapping")
        assert key in described or is_group, f"the groups have {key}, and no file of conf/ does"
    for task in choices("task"):
        assert {f"task.{key}" for key in task_rule(task).keys or ()} <= described, task


def test_conf_gives_every_argument_that_has_no_default_of_its_own() -> None:
    for file in FILES:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for node in components_in({key: value for key, value in dict(content).items() if key != "hydra"}):
            given = {key for key in node if not (key.startswith("_") and key.endswith("_")) and key != "defaults"}
            assert given <= set(signature(node["_target_"]).names), f"{file.name}: {node['_target_']}"


def test_every_task_has_a_module() -> None:
    folder = CONF.parent / "parallax" / "tasks"
    lacking = [name for name in choices("task") if not ((folder / f"{name}.py").is_file() or (folder / name).is_dir())]
    assert not lacking


def components_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_`, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from components_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from components_in(value)


def test_lines_of_a_text_of_several_lines_are_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "group" / "file.yaml"
    file.parent.mkdir()
    file.write_text("# Title.\nitem: |-  # what is asked\n  Question: here\n\n  Answer: there\nnext: 1  # a number\n")
    assert [key.key for key in described_keys(file, tmp_path)] == ["group.item", "group.next"]


def test_a_value_stands_in_one_place() -> None:
    """conf/ says it, the code asks for it; what Python users make directly keeps both (docs/architecture.md)."""
    both = {text.rpartition(":")[2] for text in second_defaults()}
    assert {name for name in both if not re.fullmatch(r"\w+Source\.(name|split|kinds)", name)} <= {
        "Claims.by", "ImageTextModel.batch_size",
    }  # fmt: skip
    assert len(both) <= 11
