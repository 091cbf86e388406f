"""Tiny checkpoints on disk and pictures with content, shared by the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parallax.models.policy import Policy
from tests.models.checkpoints import write_checkpoint
from tests.models.examples import FAMILIES
from tests.typed import load_policy


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def make_policy(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Policy]:
    memory = tmp_path_factory.mktemp("memory") / "digests.json"

    def make(
        family: str = "llava", lora: dict[str, Any] | None = None, learned: bool = False, **options: Any
    ) -> Policy:
        """`learned`: give the adapter weights that do something."""
        model = {"path": str(checkpoints[family]), "name": family, **options.pop("model", {})}
        lora = {"r": 4} if lora is None else lora
        policy = load_policy(model, lora, digest_memory=memory, **options)
        if learned:
            generator = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for name, value in policy.model.named_parameters():
                    if "lora_B" in name:
                        value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
            policy.touched()
        return policy

    return make


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
