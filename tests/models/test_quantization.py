"""QLoRA on a CPU: what is quantised, that it learns, and that its adapter fits the plain base."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from datamodules.shapes.source import ShapesSource
from parallax.models.generation.requests import GenerationRequest
from parallax.models.policy import Policy
from parallax.models.quantization import settle
from parallax.records import Decoding, ViewSpec
from parallax.reports.metrics_csv import read_metrics
from parallax.tasks.training import fit_stage
from tests import typed
from tests.tasks.tiny_fits import STAGE, policy_and_pairs
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy

LORA = {"r": 4, "enabled": True}
CLASSES = {"nf4": "Linear4bit", "int8": "Linear8bitLt"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint("llava", tmp_path_factory.mktemp("quantised") / "llava", seed=3)


def linear_layers(policy: Policy) -> Iterator[tuple[str, str]]:
    for name, module in policy.model.named_modules():
        if isinstance(module, nn.Linear) and "lora_" not in name:
            yield name, type(module).__name__


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_decoders_linear_layers_are_quantised_and_nothing_else(checkpoint: Path, kind: str) -> None:
    policy = load_policy({"path": str(checkpoint), "quantization": kind}, LORA)
    found = dict(linear_layers(policy))
    inside = {name: cls for name, cls in found.items() if ".language_model." in name}
    assert set(inside.values()) == {CLASSES[kind]} and len(inside) >= 14
    outside = {cls for name, cls in found.items() if name not in inside}
    assert outside == {"Linear"}
    assert any("vision_tower" in name for name in found) and any("projector" in name for name in found)
    assert all(".lora_" in name for name, _ in policy.trainable_parameters())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_it_learns_as_the_whole_model_does_and_the_adapter_fits_the_plain_base(tmp_path: Path, kind: str) -> None:
    plain, data = policy_and_pairs(tmp_path)
    path = str(tmp_path / "llava")
    policy = load_policy({"path": path, "quantization": kind}, LORA, seed=0)
    assert policy.fingerprint() != plain.fingerprint()  # its answers and references are not those of the plain model
    got = fit_stage(policy, data, typed.stage(**STAGE), tmp_path)
    losses = [float(row["train/loss"]) for row in read_metrics(tmp_path / "metrics.csv") if row.get("train/loss")]
    assert losses[0] == pytest.approx(0.6931, abs=2e-3) and losses[-1] < 0.66
    assert got["references"]["computed"] == 10
    policy.save_adapter(tmp_path / "adapter")
    again = load_policy({"path": path}, LORA, adapter=tmp_path / "adapter")
    assert again.has_adapter and {cls for _, cls in linear_layers(again)} == {"Linear"}
    ours, theirs = dict(policy.trainable_parameters()), dict(again.trainable_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_answers_do_not_depend_on_whether_it_was_trained_in_between(checkpoint: Path) -> None:
    policy = load_policy({"path": str(checkpoint), "quantization": "nf4"}, LORA)
    image = ShapesSource("pairs_habit_free", size=1)[0].image
    request = GenerationRequest("s", image, "What is here?", ViewSpec(), Decoding(6))
    before = policy.generate([request])[0]
    policy.for_preference_training()
    assert policy.generate([request])[0].token_ids == before.token_ids


def test_a_quantised_base_without_an_adapter_only_answers(checkpoint: Path) -> None:
    policy = load_policy({"path": str(checkpoint), "quantization": "int8"}, {"enabled": False})
    assert policy.trainable_parameters() == []


def test_layers_that_were_missed_are_noticed(checkpoint: Path) -> None:
    policy = load_policy({"path": str(checkpoint)}, {"enabled": False})
    with pytest.raises(RuntimeError, match="is not quantised, and it should be the other way round"):
        settle(policy.model)
