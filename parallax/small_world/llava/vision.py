"""Teaches the vision tower to see: every patch must tell, linearly, what its grid cell holds.

The scenes have no co-occurrence bias, so the tower owes nothing to one. The linear heads are thrown away afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlavaForConditionalGeneration as Llava

from datamodules.shapes import draw
from datamodules.shapes.scene import COLOURS, SHAPES, Scene
from parallax.small_world.llava.architecture import image_features

# What is told of a cell: shape | sign | nothing; colour | none; tens | blank | no sign; units | no sign.
CLASSES = (len(SHAPES) + 2, len(COLOURS) + 1, 12, 11)


def cell_labels(scenes: Sequence[Scene]) -> torch.Tensor:
    """What each of the nine cells holds: shape, colour, tens, units. Shape: (scenes, 9, 4), int64."""
    labels = torch.tensor([len(SHAPES) + 1, len(COLOURS), 11, 10]).repeat(len(scenes), 9, 1)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            labels[row, thing.cell, 0] = SHAPES.index(thing.shape)
            labels[row, thing.cell, 1] = COLOURS.index(thing.colour)
        tens, units = divmod(scene.number, 10)
        labels[row, scene.sign_cell] = torch.tensor([len(SHAPES), len(COLOURS), tens or 10, units])
    return labels


def by_cell(features: torch.Tensor) -> torch.Tensor:
    """(batch, patches, hidden) → (batch, 9 cells, patches of a cell, hidden), cells in reading order."""
    batch, patches, hidden = features.shape
    across = int(patches**0.5) // 3  # patches along one side of a cell
    grid = features.view(batch, 3, across, 3, across, hidden)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, 9, across * across, hidden)


def train_vision(
    model: Llava, images: torch.Tensor, scenes: Sequence[Scene], image: dict[str, Any], settings: dict[str, Any],
    generator: torch.Generator, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Train `model.model.vision_tower` in place, then freeze it. `settings` is the `vision_training` block."""
    tower = model.model.vision_tower
    heads = nn.ModuleList(nn.Linear(tower.config.hidden_size, classes) for classes in CLASSES)
    labels = cell_labels(scenes)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=settings["lr"], weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings["lr"], total_steps=settings["steps"], pct_start=0.1
    )
    started = time.monotonic()
    for step in range(settings["steps"]):
        rows = torch.randint(len(scenes), (settings["batch"],), generator=generator)
        pixels = normalise(images[rows], image["mean"], image["std"])
        pixels = add_noise(pixels, settings["noise_std"], settings["noise_share"], generator)
        cells = by_cell(image_features(model, pixels))
        wanted = labels[rows].unsqueeze(2).expand(-1, -1, cells.shape[2], -1)  # each patch speaks for its cell
        losses = [
            nn.functional.cross_entropy(head(cells).flatten(0, 2), wanted[..., i].flatten())
            for i, head in enumerate(heads)
        ]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == settings["steps"] - 1:
            rate = (step + 1) * settings["batch"] / (time.monotonic() - started)
            say(f"vision step {step}: loss {loss.item():.3f}, {rate:.0f} scenes/s")
    tower.requires_grad_(False)


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
