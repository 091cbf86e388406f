"""LoRA layers that do their arithmetic in one go: y = x Wᵀ + (x Aᵀ)(s B)ᵀ with additions inside the matrix products.

peft's layer is kept with all it can do; only its plain case (one active adapter, no variant such as DoRA, no dropout, an
unquantised base) takes the short way, for the other cases its own forward runs. The short way
- adds inside the product, and scales B (small) instead of the result (large): fewer passes over the output, both ways;
- keeps the input once, in the precision of the product. Under autocast peft first casts it to the adapter's float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from parallax.models.foreign import Pass


class FusedLinear(Linear):
    """peft's LoRA layer with a shorter forward. Made of an existing layer by `fuse`; state, names and files are peft's."""

    ready: tuple[Tensor, Tensor] | None = None  # A, and B times the scale, in the base's precision (`ready_adapters`)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Shape: (…, in) -> (…, out)."""
        name = None if args or kwargs else self._plain_adapter()
        if name is None:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        base: Any = self.base_layer
        if base.weight.dtype != dtype:
            return super().forward(x)  # type: ignore[no-any-return]
        if self.ready is not None:
            down, up = self.ready
            return _plus_adapter(x.to(dtype), base.weight, base.bias, down, up)[0]
        result: Tensor = _Fused.apply(
            x.to(dtype), base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        )
        return result

    def _plain_adapter(self) -> str | None:
        """The one adapter that is active, if all about it is plain."""
        if self.disable_adapters or self.merged or type(self.base_layer) is not nn.Linear:
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or active[0] in self.lora_variant or self.lora_B[active[0]].bias is not None:
            return None
        dropout = self.lora_dropout[active[0]]
        silent = isinstance(dropout, nn.Identity) or not self.training or getattr(dropout, "p", 1.0) == 0.0
        trained_base = self.base_layer.weight.requires_grad
        return active[0] if silent and not trained_base and not self.fan_in_fan_out else None


class _Fused(torch.autograd.Function):
    """Gradients for x, A and B; the base is frozen. With g = dy (sB): dx = dy W + g A, dA = gᵀ x, dB = s dyᵀ (x Aᵀ)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Pass, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        result, inner = _plus_adapter(x, weight, bias, a.to(x.dtype), (b * scale).to(x.dtype))
        ctx.save_for_backward(x.reshape(-1, x.shape[-1]), weight, a, b, inner)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Pass, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        rows, weight, a, b, inner = ctx.saved_tensors
        outer = gradient.reshape(-1, gradient.shape[-1])  # (M, out)
        back = outer @ (b * ctx.scale).to(outer.dtype)  # (M, r)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = (outer @ weight).addmm_(back, a.to(outer.dtype)).view(*gradient.shape[:-1], rows.shape[1])
        for_a = (back.T @ rows).to(a.dtype)
        for_b = (outer.T @ inner).to(b.dtype).mul_(ctx.scale)
        return for_x, None, None, for_a, for_b, None


def _plus_adapter(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """x Wᵀ + (x Aᵀ)(s B)ᵀ, and x Aᵀ. Shapes: (…, in), (out, in), (out,), (r, in), (out, r) -> (…, out), (M, r)."""
    inner = x.reshape(-1, x.shape[-1]) @ down.T  # (M, r)
    result = nn.functional.linear(x, weight, bias)
    result.view(-1, weight.shape[0]).addmm_(inner, up.T)
    return result, inner


@contextmanager
@torch.no_grad()
def ready_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, nothing is trained: A and B are cast to the model's precision once, not for every token that is decoded.

    Costs a copy of the adapter where its precision is another. The numbers are the same to the last bit.
    """
    layers: list[Any] = [module for module in model.modules() if isinstance(module, FusedLinear)]
    try:
        for layer in layers:
            name, dtype = layer._plain_adapter(), layer.base_layer.weight.dtype
            if name is not None:
                a, b = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
                layer.ready = a.to(dtype), (b * layer.scaling[name]).to(dtype)
        yield
    finally:
        for layer in layers:
            layer.ready = None


def fuse(model: nn.Module) -> int:
    """Give every plain LoRA layer of `model` the shorter forward, in place. Returns how many there are."""
    count = 0
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = FusedLinear
            count += 1
    return count


def unfuse(model: nn.Module) -> int:
    """Give what `fuse` made peft's own forward again, which computes by calling the layers inside. Returns how many."""
    count = 0
    for module in model.modules():
        if type(module) is FusedLinear:
            module.__class__ = Linear  # type: ignore[assignment]
            count += 1
    return count
