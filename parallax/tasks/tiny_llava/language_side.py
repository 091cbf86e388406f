"""Teaches projector and language model to talk about habitual scenes, and stops while that is half-learned.

The vision tower is frozen. Rows are right-padded, so causal attention needs no mask; only learned positions reach the
language-model head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from datamodules.shapes.scene import Scene
from parallax.tasks.tiny_llava.architecture import image_features
from parallax.tasks.tiny_llava.lessons import draw_kind, encode, lesson
from parallax.tasks.tiny_llava.pixels import add_noise, normalise

_POOL = 8  # batches drawn together and sorted by length, so that little is padded


def train_language(
    model: Any, processor: Any, images: torch.Tensor, scenes: Sequence[Scene], image: dict[str, Any],
    settings: dict[str, Any], generator: torch.Generator, rng: np.random.Generator, say: Callable[[str], None],
    at_step: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Train `multi_modal_projector`, `language_model` and `lm_head` in place. `settings` is the `language_training` block.

    `at_step(step)` is called after every optimiser step (for measurements on the way).
    """
    trained = [p for name, p in model.named_parameters() if "vision_tower" not in name]
    optimiser = torch.optim.AdamW(trained, settings["lr"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"])
    scale = _schedule(settings["steps"], settings["warmup_steps"], settings["final_lr_share"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, scale)
    image_tokens = model.config.image_seq_length
    waiting: list[tuple[np.ndarray, list[tuple[list[int], list[float]]]]] = []
    started, rows_done = time.monotonic(), 0
    for step in range(settings["steps"]):
        if not waiting:
            waiting = _draw_pool(processor, scenes, settings, image_tokens, rng)
        rows, lessons = waiting.pop()
        ids, weights = _pad(lessons, processor.tokenizer.pad_token_id)
        with torch.no_grad():
            pixels = normalise(images[torch.from_numpy(rows)], image["mean"], image["std"])
            pixels = add_noise(pixels, settings["noise_std"], settings["noise_share"], generator)
            seen = image_features(model, pixels)
        loss = answer_loss(model, seen, ids, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        rows_done += len(rows)
        if step % 50 == 0 or step == settings["steps"] - 1:
            say(f"language step {step}: loss {loss.item():.3f}, {rows_done / (time.monotonic() - started):.0f} rows/s")
        if at_step is not None:
            at_step(step + 1)


def answer_loss(model: Any, seen: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of the answers' tokens.

    Shapes: seen (batch, patches, hidden), ids (batch, length), weights (batch, length), 0 where nothing is learned.
    """
    embedded = model.get_input_embeddings()(ids)
    projected = model.model.multi_modal_projector(seen).flatten(0, 1)
    places = (ids == model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
    embedded = embedded.masked_scatter(places, projected.to(embedded.dtype))
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    weights, targets = weights[:, 1:], ids[:, 1:]  # position t predicts token t + 1
    learned = weights > 0
    losses = nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][learned]), targets[learned], reduction="none")
    return (losses * weights[learned]).sum() / weights.sum()


def _draw_pool(
    processor: Any, scenes: Sequence[Scene], settings: dict[str, Any], image_tokens: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, list[tuple[list[int], list[float]]]]]:
    count = settings["batch"] * _POOL
    rows = rng.integers(len(scenes), size=count)
    lessons = [lesson(scenes[row], draw_kind(settings["mix"], rng), rng) for row in rows]
    coded = [encode(processor, turns, image_tokens, settings["weighting"]) for turns in lessons]
    order = np.argsort([len(ids) for ids, _ in coded], kind="stable")
    batches = order.reshape(_POOL, settings["batch"])[rng.permutation(_POOL)]
    return [(rows[batch], [coded[i] for i in batch]) for batch in batches]


def _pad(lessons: list[tuple[list[int], list[float]]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in lessons)
    ids = torch.full((len(lessons), longest), pad_id)
    weights = torch.zeros((len(lessons), longest))
    for row, (tokens, token_weights) in enumerate(lessons):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weights[row, : len(tokens)] = torch.tensor(token_weights)
    return ids, weights


def _schedule(steps: int, warmup: int, final_share: float) -> Callable[[int], float]:
    """Linear warm-up, then a straight line down to `final_share` of the learning rate."""

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 1 - (1 - final_share) * (step - warmup) / max(1, steps - warmup)

    return scale
