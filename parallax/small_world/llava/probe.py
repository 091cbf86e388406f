"""A linear probe: does the frozen vision tower hold the truth? Logistic regression from a cell's mean feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration as Llava

from datamodules.shapes.scene import COLOURS, SHAPES, Scene
from parallax.small_world.llava.architecture import image_features
from parallax.small_world.llava.pixels import normalise, paint
from parallax.small_world.llava.vision import by_cell


def probe_accuracy(
    model: Llava, train: Sequence[Scene], test: Sequence[Scene], image: dict[str, Any]
) -> dict[str, float]:
    """Share of the test scenes' objects whose shape, colour and both the probe reads rightly. Weights start at zero."""
    inputs, shapes, colours = _object_features(model, train, image)
    held_out, true_shapes, true_colours = _object_features(model, test, image)
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6
    inputs, held_out = (inputs - mean) / std, (held_out - mean) / std
    shape_right = _fit(inputs, shapes, len(SHAPES))(held_out).argmax(-1) == true_shapes
    colour_right = _fit(inputs, colours, len(COLOURS))(held_out).argmax(-1) == true_colours
    return {
        "shape": shape_right.float().mean().item(),
        "colour": colour_right.float().mean().item(),
        "both": (shape_right & colour_right).float().mean().item(),
        "objects": len(held_out),
    }


def _fit(inputs: torch.Tensor, labels: torch.Tensor, classes: int) -> nn.Linear:
    head = nn.Linear(inputs.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(head(inputs), labels) + 1e-4 * head.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return head.requires_grad_(False)


@torch.no_grad()
def _object_features(
    model: Llava, scenes: Sequence[Scene], image: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One row per object: the mean feature of its cell, its shape and its colour. Shapes: (objects, hidden), (objects,) x 2."""
    images = paint(scenes)
    rows, shapes, colours = [], [], []
    for start in range(0, len(scenes), 256):
        pixels = normalise(images[start : start + 256], image["mean"], image["std"])
        cells = by_cell(image_features(model, pixels)).mean(2)
        for offset, scene in enumerate(scenes[start : start + 256]):
            for thing in scene.things:
                rows.append(cells[offset, thing.cell])
                shapes.append(SHAPES.index(thing.shape))
                colours.append(COLOURS.index(thing.colour))
    return torch.stack(rows), torch.tensor(shapes), torch.tensor(colours)
