"""A pass waits for its GPU only where the family's own code does: rows are laid out on the host, and nothing is asked back.

Tensors on `meta` stand for those of a GPU: they have no values, so whatever would have to wait for one fails.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.random_model import model_config, random_pairs, random_policy
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO
from parallax.models.batch import PairBatch
from parallax.settings.groups import Optim
from parallax.settings.shipped import shipped
from tests.parts import part

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_consecutive"}


class Waits(TorchDispatchMode):
    """Notes every operation that gives its result, or the shape of it, to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        picks = name in ("index", "index_put", "index_put_")
        if name in WAITING or (picks and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def ragged_pairs(count: int = 3) -> PairBatch:
    batch = random_pairs(model_config("tiny"), pairs=count, prompt_tokens=24, response_tokens=9, responses=2)
    batch.scoring.response_lengths[0, 1] = 4
    batch.scoring.prompt_lengths[1] = 20
    return batch


def test_scoring_and_its_gradients_ask_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")  # the library's own two, see below
    policy = random_policy("tiny", rank=4, layout="shared", attention="prefix_sdpa", device="meta")
    module = DPOModule(policy, part(DPO), shipped(Optim), total_steps=1)
    loss, metrics = module.losses(ragged_pairs().to("meta"))
    loss.sum().backward()
    assert {value.device.type for value in (loss, *metrics.values())} == {"meta"}


def test_a_micro_batch_waits_twice_for_its_device_and_that_is_the_librarys_check_of_image_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from parallax.models.scoring import log_probs

    policy = random_policy("tiny", rank=4, layout="shared", attention="prefix_sdpa", fused=True)
    on_host = policy.layout
    waits = Waits()

    def laid_out(network: Any, batch: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return on_host(network, batch)

    monkeypatch.setattr(policy, "layout", laid_out)
    monkeypatch.setattr(log_probs.ScoringBatch, "counted", _unseen(log_probs.ScoringBatch.counted))
    module = DPOModule(policy, part(DPO), shipped(Optim), total_steps=1)
    batch = ragged_pairs()
    with waits:
        module.losses(batch)[0].sum().backward()
    assert len(waits.seen) <= 2, waits.seen


def _unseen(method: Any) -> Any:
    def outside(*args: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return method(*args)

    return outside
