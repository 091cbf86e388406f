"""Optimisers and schedules against the peers' numbers."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_modules.optimisers import build_optimiser, build_schedule
from tests import typed


def rates(total: int, **settings: object) -> list[float]:
    """The learning rate of each step, the peak being 1."""
    optimiser = build_optimiser([nn.Parameter(torch.zeros(2, 2))], typed.optim(lr=1.0))
    schedule, found = build_schedule(optimiser, typed.optim(**settings), total), []
    for _ in range(total + 1):
        found += schedule.get_last_lr()
        optimiser.step()
        schedule.step()
    return found


def test_warm_up_is_a_ratio_rounded_up_or_a_number_of_steps() -> None:
    for ratio, steps, total, warmup in ((0.03, None, 169, 6), (0.03, None, 10, 1), (0.03, 0, 169, 0), (0.0, 3, 20, 3)):
        found = rates(total, scheduler="constant", warmup_ratio=ratio, warmup_steps=steps)
        assert found.index(1.0) == warmup and set(found[warmup:]) == {1.0}


def test_schedules_by_hand() -> None:
    # 10 steps, 2 of warm-up: half way through the remaining 8 the factor is a half
    for name, quarter in (("cosine", 0.5 + 0.5**1.5), ("linear", 0.75)):
        found = rates(10, scheduler=name, warmup_steps=2)
        assert [found[step] for step in (0, 1, 2, 4, 6, 10)] == pytest.approx([0, 0.5, 1, quarter, 0.5, 0])


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
