"""Loss and gradient of an optimiser step do not depend on how its pairs are packed into forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.preference import PreferenceDataModule
from datamodules.shapes.source import ShapesSource
from datamodules.source import Source
from lightning_modules.objectives import DPO
from parallax.preference.judges import ByConstruction
from parallax.preference.proposers import Given
from parallax.preference.selector import BestAgainstRest
from parallax.records import PreferencePair, Response, Sample
from tests import typed
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy

SENTENCE = "There is a red circle left of a blue square and nothing else but a small green star below it."
PACKINGS: dict[str, dict[str, Any]] = {
    "one by one": {"micro_batch_size": 1},
    "by threes": {"micro_batch_size": 3},
    "all at once": {"micro_batch_size": 8},
    "by tokens": {"micro_batch_size": 1, "micro_batch_tokens": 400},
    "auto": {"micro_batch_size": 2, "micro_batch_tokens": "auto"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint("llava", tmp_path_factory.mktemp("llava"), seed=1)


def float64_policy(folder: Path, layout: str) -> Any:
    """An adapter that has learned something, so that policy and reference differ."""
    model = {"name": "tiny", "path": str(folder), "dtype": "float64", "layout": layout}
    policy = load_policy(model, {"r": 2})
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, value in policy.trainable_parameters():
            value += 0.05 * torch.randn(value.shape, generator=noise, dtype=value.dtype)
    policy.touched()
    return policy


class Ready(Source):
    """Eight ready-made pairs of very different length."""

    def __init__(self) -> None:
        def answer(count: int) -> Response:
            return Response(SENTENCE[: 5 * count])

        self.samples = ShapesSource("pairs_habit_free", 8)
        self._pairs: list[PreferencePair] = []
        for place, sample in enumerate(self.samples):
            prompt = sample.question * (1 + place % 2)
            chosen, rejected = answer(1 + 2 * place), (answer(18 - place),)
            self._pairs.append(PreferencePair(sample.id, "test", sample.image, prompt, chosen, rejected))

    @property
    def pairs(self) -> list[PreferencePair]:
        return self._pairs

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Sample:
        return self.samples[place]


@pytest.mark.parametrize("layout", ["separate", "shared"])
def test_loss_and_gradients_are_those_of_one_pair_at_a_time(folder: Path, layout: str, tmp_path: Path) -> None:
    policy, found = float64_policy(folder, layout), {}
    for name, packing in PACKINGS.items():
        module = PreferenceDataModule(
            Ready(), Given(), ByConstruction(), BestAgainstRest(), cache_dir=tmp_path, reference_mode="live",
            trainer=typed.trainer(**{"batch_size": 8, **packing}),
        )  # fmt: skip
        module.build_pairs(policy)
        (step,) = module.epoch_loader()
        policy.model.zero_grad()
        loss = 0.0
        for batch in step.micro_batches:
            with torch.no_grad(), policy.reference():
                reference = policy.score(batch.scoring).total
            total = (
                DPO(0.5)(policy.score(batch.scoring).total, reference, batch.lengths).loss.sum() / step.pairs_in_step
            )
            total.backward()
            loss += float(total.detach())
        gradients = {key: value.grad.clone() for key, value in policy.trainable_parameters()}
        found[name] = loss, gradients, [len(batch) for batch in step.micro_batches]
    assert found["one by one"][2] == [1] * 8 and len({tuple(sizes) for *_, sizes in found.values()}) >= 4
    (loss, gradients, _), *others = found.values()
    assert max(float(value.abs().max()) for value in gradients.values()) > 1e-4
    for other_loss, other_gradients, _ in others:
        assert other_loss == pytest.approx(loss, rel=1e-12)
        for key, value in gradients.items():
            torch.testing.assert_close(other_gradients[key], value, rtol=1e-9, atol=1e-12)
