"""The first minute: what a run says at once, and what it does not import before the first answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from parallax.settings.errors import ConfigError
from parallax.tasks.first_minute import first_minute, loading_line, needs_bitsandbytes

ROOT = Path(__file__).parents[2]
UNUSED = (
    "bitsandbytes", "datasets", "lightning_fabric", "matplotlib", "pandas", "pytorch_lightning",
    "scipy.optimize._optimize", "sklearn", "torch._dynamo.eval_frame", "torchmetrics.functional", "torchvision.models.resnet",
    "trl", "wandb",
)  # fmt: skip
CODE = f"""
import sys, runpy
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("there:", [name for name in {UNUSED!r} if sys.modules.get(name) is not None])
"""


def plain(compose: Callable[..., DictConfig], *words: str) -> dict[str, Any]:
    return OmegaConf.to_container(compose(*words), resolve=True)  # type: ignore[return-value]


def test_the_first_line_says_what_is_loaded(compose_config: Callable[..., DictConfig]) -> None:
    assert loading_line(plain(compose_config)).startswith("align tiny_llava by seva: loading torch")
    assert loading_line(plain(compose_config, "task=chat")).startswith("chat tiny_llava: loading torch")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only torch knows")
def test_a_gpu_that_is_not_there_is_missed_before_anything_is_loaded(
    compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="there is no GPU here. Use trainer=cpu or trainer=auto"):
        first_minute(compose_config("trainer=gpu"))


def test_bitsandbytes_is_for_quantised_weights_and_eight_bit_moments(compose_config: Callable[..., DictConfig]) -> None:
    assert not needs_bitsandbytes(plain(compose_config, "method=stic"))
    for word in ("model.quantization=nf4", "optim=adamw_8bit", "optim=paged_adamw", "model.path=some/hub-name"):
        assert needs_bitsandbytes(plain(compose_config, word)), word


def test_a_question_is_answered_without_lightning_or_wandb_and_without_their_noise(tmp_path: Path) -> None:
    words = [
        "task=chat",
        "task.questions=['Is there a circle?']",
        f"paths.cache_dir={tmp_path}",
        f"hydra.run.dir={tmp_path}/a",
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE, "run.py", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, second, *_, last = done.stdout.splitlines()
    assert first == "chat tiny_llava: loading torch, transformers and the model" and second.startswith(
        "tiny_llava, looking at"
    )
    assert last == "there: []" and done.stderr == ""
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_what_was_left_out_comes_whole_when_it_is_asked_for() -> None:
    code = """
from lightning_modules.light_imports import light_imports
light_imports()
import sys, torch, torchvision.transforms.v2, pytorch_lightning
weight = torch.nn.Parameter(torch.ones(2))
optimiser = torch.optim.AdamW([weight])
weight.sum().backward()
optimiser.step()
left_out = ("matplotlib", "torch._dynamo.eval_frame", "torchvision.models.resnet")
assert not [name for name in left_out if name in sys.modules]
import torch._dynamo.utils as utils
assert torch._dynamo.utils is utils is sys.modules["torch._dynamo.utils"]
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
from torchvision.ops import nms
from scipy.optimize import minimize
import torchmetrics
assert torchmetrics.Accuracy(task="binary")(torch.ones(1), torch.ones(1)).item() == 1 and torchvision.models.resnet18
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
