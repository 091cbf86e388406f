"""Contrastive training (CLIP, arXiv 2103.00020, section 2.3) with near misses beside every true sentence.

Each picture has to find its own sentence among all true sentences of the batch and its own near misses; each true sentence has
to find its picture. The frozen layers' states are computed once for all scenes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel

from datamodules.shapes.scene import Scene
from parallax.models.foreign import Tokenizer
from parallax.small_world.clip.architecture import embed_states, embed_texts
from parallax.small_world.clip.texts import texts


def contrastive_loss(images: Tensor, sentences: Tensor, scale: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies.

    Shapes: images (B, D), sentences (B, 1 + M, D) with the true one first, both of length 1; scale () multiplies cosines.
    """
    true = sentences[:, 0]
    across = scale * images @ true.T  # (B, B)
    misses = scale * torch.einsum("bd,bmd->bm", images, sentences[:, 1:])
    wanted = torch.arange(len(images), device=images.device)
    to_text = nn.functional.cross_entropy(torch.cat([across, misses], dim=1), wanted)
    return (to_text + nn.functional.cross_entropy(across.T, wanted)) / 2


def train(
    model: CLIPModel, tokenizer: Tokenizer, states: Tensor, scenes: Sequence[Scene], frozen_layers: int, settings: dict[str, Any],
    rng: np.random.Generator, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Train the layers that are not frozen, in place. `settings` is the `training` block."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings["lr"], weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings["lr"], total_steps=settings["steps"], pct_start=0.1
    )
    misses, started = settings["misses"], time.monotonic()
    for step in range(settings["steps"]):
        rows = rng.integers(len(scenes), size=settings["batch"])
        said = [text for row in rows for text in texts(scenes[int(row)], rng, misses)]
        images = embed_states(model, states[torch.from_numpy(rows)], frozen_layers)
        sentences = embed_texts(model, tokenizer, said).view(len(rows), 1 + misses, -1)
        loss = contrastive_loss(images, sentences, model.logit_scale.exp().clamp(max=100.0))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == settings["steps"] - 1:
            rate = (step + 1) / (time.monotonic() - started)
            say(f"step {step}: loss {loss.item():.3f}, {rate:.2f} steps/s")
