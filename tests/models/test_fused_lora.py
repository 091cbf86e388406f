"""The shorter LoRA forward gives peft's numbers and peft's gradients, and steps aside for what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.profiler import profile

from parallax.models.fused_lora import FusedLinear, fuse, ready_adapters


class Net(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 20, bias=bias), nn.Linear(20, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> Any:
        return self.second(self.first(x).relu())


def network(dtype: torch.dtype = torch.float64, bias: bool = True, **lora: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], **lora)
    model = get_peft_model(Net(bias).to(dtype), config, autocast_adapter_dtype=dtype != torch.bfloat16)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.3)
    return model


def outcome(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    result = model(x)
    learned = [value for value in model.parameters() if value.requires_grad]
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape)
    return [result, *torch.autograd.grad((result * weights).sum(), [x, *learned])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}], ids=str)
def test_outputs_and_gradients_are_pefts(bias: bool, lora: dict[str, Any]) -> None:
    if lora.get("lora_bias") and not bias:
        pytest.skip("peft wants a bias in the base for lora_bias")
    plain, fused = network(bias=bias, **lora), network(bias=bias, **lora)
    assert fuse(fused) == 2
    x = torch.randn(2, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for a, b in zip(outcome(plain, x), outcome(fused, x), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_without_its_adapter_it_is_the_base_to_the_last_bit() -> None:
    model = network()
    fuse(model)
    x = torch.randn(5, 12, dtype=torch.float64)
    with model.disable_adapter(), torch.no_grad():
        assert torch.equal(
            model(x), model.get_base_model().second.base_layer(model.get_base_model().first.base_layer(x).relu())
        )


def test_an_adapter_that_has_learned_nothing_changes_nothing() -> None:
    model = network()
    fuse(model)
    x = torch.randn(5, 12, dtype=torch.float64)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(value)
    with torch.no_grad():
        adapted = model(x)
        with model.disable_adapter():
            assert torch.equal(adapted, model(x))


def test_under_autocast_it_is_as_near_to_the_truth_as_peft() -> None:
    """bfloat16 base, float32 adapter, as in mixed-precision training."""
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(2))
    exact = outcome(network(torch.float32), x)
    errors = []
    for make_fused in (False, True):
        model = network(torch.float32)
        for module in model.modules():
            if hasattr(module, "base_layer"):
                module.base_layer.to(torch.bfloat16)
        if make_fused:
            fuse(model)
        with torch.autocast("cpu", torch.bfloat16):
            found = outcome(model, x)
        errors.append([float((a.float() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)])
    assert all(ours < 2 * theirs + 1e-3 for theirs, ours in zip(*errors, strict=True)), errors


def test_ready_adapters_are_cast_once_and_change_no_bit() -> None:
    model = network(torch.float32)
    for module in model.modules():
        if hasattr(module, "base_layer"):
            module.base_layer.to(torch.bfloat16)
    fuse(model)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.no_grad():
        expected = model(x)
        with ready_adapters(model), profile() as seen:
            assert torch.equal(model(x), expected)
    assert "aten::_to_copy" not in {event.key for event in seen.key_averages()}
    assert all(module.ready is None for module in model.modules() if isinstance(module, FusedLinear))


def test_dropout_is_pefts_own() -> None:
    plain, fused = network(lora_dropout=0.5), network(lora_dropout=0.5)
    fuse(fused)
    x = torch.randn(4, 12, dtype=torch.float64)
    for model in (plain, fused):
        model.train()
    torch.manual_seed(7)
    expected = plain(x)
    torch.manual_seed(7)
    assert torch.equal(fused(x), expected)


def test_state_and_files_stay_pefts(tmp_path: Any) -> None:
    from peft import PeftModel

    model = network(torch.float32)
    names = list(model.state_dict())
    fuse(model)
    assert list(model.state_dict()) == names and isinstance(model.get_base_model().first, FusedLinear)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(Net(True), str(tmp_path))
    x = torch.randn(3, 12)
    assert torch.allclose(again(x), model(x), atol=1e-6)
    merged = model.merge_and_unload()
    assert torch.allclose(merged(x), again(x), atol=1e-5)
