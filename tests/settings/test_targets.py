"""Arguments are read from the source, without importing it, and are what Python says they are."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from parallax.settings.components import COMPONENTS
from parallax.settings.targets import UnknownTarget, signature

OURS = sorted(target for target in COMPONENTS if not target.startswith("hydra."))


@pytest.mark.parametrize("target", OURS)
def test_the_source_says_what_inspect_says(target: str) -> None:
    module, _, name = target.rpartition(".")
    real = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    named = [p for p in real if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    read = signature(target)
    assert set(read.names) == {p.name for p in named}
    assert set(read.required) == {p.name for p in named if p.default is p.empty}
    assert read.open == any(p.kind is p.VAR_KEYWORD for p in real)


@pytest.mark.parametrize("target", OURS)
def test_every_rule_is_about_an_argument_that_exists(target: str) -> None:
    assert set(COMPONENTS[target]) <= set(signature(target).names)


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
