"""Scenes as normalised tensors, in bulk: painted once as bytes, normalised and made noisy batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from datamodules.shapes import draw
from datamodules.shapes.scene import Scene


def paint(scenes: Sequence[Scene]) -> torch.Tensor:
    """Shape: (scenes, 96, 96, 3), uint8."""
    return torch.from_numpy(np.stack([draw.render(scene) for scene in scenes]))


def normalise(images: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """(batch, side, side, 3) bytes → (batch, 3, side, side) float32, as the processor does it."""
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def add_noise(pixels: torch.Tensor, largest_std: float, share: float, generator: torch.Generator) -> torch.Tensor:
    """Mild diffusion-type noise: x ← √(1 − s²)·x + s·ε with s uniform in [0, largest_std] for a `share` of the rows."""
    rows = pixels.shape[0]
    strength = torch.rand(rows, generator=generator) * largest_std
    strength = (strength * (torch.rand(rows, generator=generator) < share)).view(-1, 1, 1, 1)
    return (1 - strength**2).sqrt() * pixels + strength * torch.randn(pixels.shape, generator=generator)


def diffuse(pixels: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
    """The corrupted view of preference pairs: x at a step (0-999) of the sigmoid noise schedule. 0.863 x + 0.505 ε at 500."""
    betas = [1e-5 + (5e-3 - 1e-5) / (1 + math.exp(6 - 12 * i / 999)) for i in range(step + 1)]
    kept = math.prod(1 - beta for beta in betas)
    return math.sqrt(kept) * pixels + math.sqrt(1 - kept) * torch.randn(pixels.shape, generator=generator)
