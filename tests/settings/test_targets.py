"""Arguments, kinds and facts are read from the source, without importing it, and are what Python says they are."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from parallax.settings.comments import CONF
from parallax.settings.part import rules_of
from parallax.settings.source import NoConstant
from parallax.settings.targets import GET_METHOD, UnknownTarget, fact, is_a, parts_in, signature


def targets_in(node: Any) -> Iterator[str]:
    """Every `_target_` at any depth."""
    if isinstance(node, dict):
        yield from ([node["_target_"]] if "_target_" in node else [])
        for value in node.values():
            yield from targets_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets_in(value)


def shipped() -> list[str]:
    """What some file of conf/ names."""
    files = [file for file in CONF.rglob("*.yaml") if file.relative_to(CONF).parts[0] not in ("hydra", "local")]
    found = {target for file in files for target in targets_in(OmegaConf.to_container(OmegaConf.load(file)))}
    return sorted(target for target in found if not target.startswith("hydra."))


OURS = shipped()


@pytest.mark.parametrize("target", OURS)
def test_the_source_says_what_python_says(target: str) -> None:
    module, _, name = target.rpartition(".")
    living = getattr(importlib.import_module(module), name)
    bare = isinstance(living, type) and living.__init__ is object.__init__
    real = [] if bare else list(inspect.signature(living).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in real) and isinstance(living, type):  # handed on to the base
        above = inspect.signature(living.__mro__[1]).parameters
        real = [p for p in real if p.kind is not p.VAR_KEYWORD] + [
            above[n] for n in above if n not in {p.name for p in real}
        ]
    named = [p for p in real if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    read = signature(target)
    assert sorted(read.names) == sorted(
        p.name for p in named
    )  # keyword-only fields of a base class come last in a signature
    assert set(read.required) == {p.name for p in named if p.default is p.empty}
    assert read.open == any(p.kind is p.VAR_KEYWORD for p in real)
    for parameter in named:
        with suppress(NoConstant):  # a default that the source alone does not tell, or none
            assert read.arguments[parameter.name].default == parameter.default


@pytest.mark.parametrize("target", OURS)
def test_every_argument_has_a_rule_and_the_source_says_the_same_as_the_living_class(target: str) -> None:
    module, _, name = target.rpartition(".")
    living = getattr(importlib.import_module(module), name)
    read = signature(target)
    unchecked = {name for name, argument in read.arguments.items() if argument.rule.kind == "anything"}
    assert not unchecked, f"{target}: no rule for {unchecked}; annotate what they may hold"
    if isinstance(living, type):
        for argument, rule in rules_of(living).items():
            assert read.rule(argument).words() == rule.words(), argument


def test_reading_imports_nothing() -> None:
    code = "import sys; from parallax.settings.targets import signature; signature('augment.diffusion.Diffusion'); " + (
        "assert not {'torch', 'augment', 'PIL'} & set(sys.modules), 'something was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("os.system", "only code in parallax, augment, lightning_modules or datamodules"),
        ("subprocess.Popen", "may be named"),
        ("torch.load", "may be named"),
        ("augment", "may be named"),
        ("augment.diffusion._hidden", "no dotted path of public names"),
        ("augment..diffusion", "no dotted path of public names"),
        ("augment.nowhere.Diffusion", "there is no module augment.nowhere"),
        ("augment.diffusion.Difusion", "there is no Difusion in augment.diffusion; did you mean Diffusion?"),
        ("augment.diffusion.torch", "there is no torch in augment.diffusion"),
    ],
)
def test_what_may_not_be_named_or_is_not_there_is_refused_with_the_reason(target: str, reason: str) -> None:
    with pytest.raises(UnknownTarget, match=reason.replace(".", r"\.").replace("?", r"\?")):
        signature(target)


def test_what_a_part_is_follows_inheritance_and_re_exports() -> None:
    base = "lightning_modules.objectives.Objective"
    assert is_a("lightning_modules.objectives.DPO", base) and is_a("lightning_modules.objectives.base.DPO", base)
    assert is_a("augment.combine.SticCorruption", "augment.combine.Mixture")
    assert not is_a("augment.diffusion.Diffusion", base) and not is_a(GET_METHOD, base) and not is_a("os.system", base)
    words = "parallax.evaluation.coco_words.CocoWords"
    assert is_a("parallax.evaluation.coco_words.coco_words", words), "a function is what it says it returns"
    assert fact("lightning_modules.objectives.IPO", "pairs_only") is True
    assert fact("lightning_modules.objectives.NLL", "needs_reference") is False
    assert fact("lightning_modules.objectives.DPO", "needs_reference") is True, "said by the base class"
    assert fact("augment.combine.SticCorruption", "acts_on") == "both"


def test_parts_are_found_at_any_depth_and_by_name() -> None:
    views = ["identity", {"name": "chain", "views": ["diffusion"]}]
    found = list(parts_in({"_target_": "augment.combine.Mixture", "views": views}))
    assert found == [
        "augment.combine.Mixture", "augment.view.Identity", "augment.combine.Chain", "augment.diffusion.Diffusion",
    ]  # fmt: skip
