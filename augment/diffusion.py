"""Diffusion noise: the forward process of a diffusion model, stopped at a step.

x_t = sqrt(abar_t) * x + sqrt(1 - abar_t) * noise, on the normalised and padded pixels (SeVa, arXiv 2404.10501, section 3;
the schedule is the sigmoid one of its released code: beta_i = sigmoid(-6 + 12 i / 999) * (0.005 - 1e-5) + 1e-5, i = 0 .. 999,
abar_t the product of 1 - beta_i over i <= t). The step is used as the index itself, so even step 0 adds a trace of noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from augment.view import ActsOn, View

STEPS = 1000  # length of the schedule; steps are counted 0 .. 999


@cache
def schedule() -> tuple[Tensor, Tensor]:
    """What is left of the image and the standard deviation of the noise at each step. Shapes: (1000,), (1000,), float64."""
    position = torch.linspace(-6.0, 6.0, STEPS, dtype=torch.float64)
    betas = torch.sigmoid(position) * (0.005 - 1e-5) + 1e-5
    kept = torch.cumprod(1.0 - betas, dim=0)
    return kept.sqrt(), (1.0 - kept).sqrt()


def add_noise(pixels: Tensor, noise_steps: int, generator: torch.Generator) -> Tensor:
    """Noise as at step `noise_steps` (0 to 999). Any shape and device; the noise is drawn in float32 on the CPU."""
    kept, noise_std = (float(table[noise_steps]) for table in schedule())
    noise = torch.randn(pixels.shape, generator=generator, dtype=torch.float32, device="cpu")
    return (kept * pixels.float() + noise_std * noise.to(pixels.device)).to(pixels.dtype)


@dataclass(frozen=True)
class Diffusion(View):
    """Gaussian noise of a set strength. SeVa's paper uses 800 for the 7B model and 500 for the 13B one."""

    name: ClassVar[str] = "diffusion"
    acts_on: ClassVar[ActsOn] = "tensor"
    noise_steps: Annotated[int, Interval(ge=0, le=STEPS - 1)]  # of the schedule's 1000

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        assert pixels.ndim == 3, f"noise goes onto one image of shape (channels, H, W), got {tuple(pixels.shape)}"
        return add_noise(pixels, self.noise_steps, generator)
