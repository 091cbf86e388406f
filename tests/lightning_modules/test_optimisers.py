"""Optimisers and schedules against the peers' numbers."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import AdamW
from transformers import get_scheduler

from lightning_modules.optimisers import build_optimiser, build_schedule, learning_rate_factor, warmup_steps
from tests import typed


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 3), (7, 7), (1, 0)])
def test_schedules_are_those_of_transformers(name: str, total: int, warmup: int) -> None:
    peer_optimiser = AdamW([nn.Parameter(torch.zeros(2, 2))], lr=0.5)
    peer_name = "constant_with_warmup" if name == "constant" else name
    peer = get_scheduler(peer_name, peer_optimiser, num_warmup_steps=warmup, num_training_steps=total)
    optimiser = build_optimiser([nn.Parameter(torch.zeros(2, 2))], typed.optim(lr=0.5))
    ours = build_schedule(optimiser, typed.optim(scheduler=name, warmup_steps=warmup), total)
    for _ in range(total):
        assert ours.get_last_lr() == pytest.approx(peer.get_last_lr(), abs=1e-12)
        for each, schedule in ((optimiser, ours), (peer_optimiser, peer)):
            each.step()
            schedule.step()


def test_warm_up_is_a_ratio_rounded_up_or_a_number_of_steps() -> None:
    assert warmup_steps(typed.optim(warmup_ratio=0.03), 169) == 6
    assert warmup_steps(typed.optim(warmup_ratio=0.03, warmup_steps=None), 10) == 1
    assert warmup_steps(typed.optim(warmup_ratio=0.03, warmup_steps=0), 169) == 0
    assert warmup_steps(typed.optim(), 169) == 0


def test_cosine_by_hand() -> None:
    # 10 steps, 2 of warm-up: half way through the remaining 8 the factor is a half
    assert [learning_rate_factor("cosine", step, 2, 10) for step in (0, 1, 2, 6, 10)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )


def test_weight_decay_spares_vectors() -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimiser = build_optimiser([matrix, vector], typed.optim(lr=0.1, weight_decay=0.5, betas=[0.8, 0.9], eps=1e-6))
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimiser.step()
    assert matrix.unique().tolist() == pytest.approx([1 - 0.1 * 0.5])
    assert vector.unique().tolist() == [1.0]
    assert optimiser.param_groups[0]["betas"] == (0.8, 0.9) and optimiser.param_groups[0]["eps"] == 1e-6


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing to train.*lora\.enabled"):
        build_optimiser([], typed.optim(lr=0.1))


def test_on_a_gpu_adamw_is_the_fused_one() -> None:
    with FakeTensorMode():
        on_gpu = [nn.Parameter(torch.zeros(2, 2, device="cuda"))]
    assert build_optimiser(on_gpu, typed.optim()).defaults["fused"] is True
    assert build_optimiser([nn.Parameter(torch.zeros(2, 2))], typed.optim()).defaults["fused"] is None
