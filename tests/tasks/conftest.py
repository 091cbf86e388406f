"""What several tests of tasks start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the built-in model that does something."""
    from hydra import compose, initialize_config_dir

    from parallax.settings.groups import Lora
    from parallax.settings.shipped import shipped
    from parallax.tasks.parts import make_policy

    folder = tmp_path_factory.mktemp("adapter")
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        plain: Any = OmegaConf.to_container(
            compose("config", overrides=[f"paths.cache_dir={folder / 'cache'}"]), resolve=True
        )
    policy = make_policy(plain, shipped(Lora, r=4), adapter=None, device="cpu")
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    policy.touched()
    policy.save_adapter(folder / "adapter")
    return folder / "adapter"
