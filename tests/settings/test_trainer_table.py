"""Every strategy with every quantisation, trained with LoRA or in full: what runs and what is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import product

import pytest
from omegaconf import DictConfig

from parallax.settings.check import find_problems

TRAINERS = ("cpu", "gpu", "ddp", "fsdp", "fsdp2", "deepspeed")
QUANTIZATIONS = ("none", "nf4", "int8")
LORAS = ("default", "none")


def expected(trainer: str, quantization: str, lora: str) -> set[str]:
    """Words of the refusals; none for what runs."""
    said = set()
    if quantization != "none" and lora == "none":
        said.add("cannot be trained, and lora=none trains them")
    if quantization != "none" and trainer in ("fsdp", "fsdp2", "deepspeed") and lora == "default":
        said.add("cannot divide over processes")
    if trainer == "deepspeed" and find_spec("deepspeed") is None:
        said.add("pip install 'deepspeed")
    return said


@pytest.mark.parametrize(("trainer", "quantization", "lora"), [*product(TRAINERS, QUANTIZATIONS, LORAS)])
def test_each_combination_runs_or_is_refused_with_the_reason(
    compose_config: Callable[..., DictConfig], trainer: str, quantization: str, lora: str
) -> None:
    words = [f"trainer={trainer}", f"model.quantization={quantization}", f"lora={lora}"]
    problems = list(find_problems(compose_config(*words), complete=False).values())
    wanted = expected(trainer, quantization, lora)
    assert len(problems) == len(wanted), problems
    assert all(any(words in problem for problem in problems) for words in wanted)
    assert all("Use " in problem for problem in problems)  # each says the way out
