"""Teaches projector and language model: to look things up first, then to talk about habitual scenes.

The vision tower is frozen. Rows are right-padded and hold several conversations about one image (`rows`); only learned
positions reach the language-model head.

Help for finding a named thing in the picture, in training only.

Told only whether an answer was right, a small language model does not learn within reach to look for the thing that a question
names. So some of its attention heads are shown where to look: two heads of an early layer, from the name to the thing's
patches; two heads of a later one, from the place where the answer begins to the names that decide it; and a linear head, thrown
away afterwards, asks between them for the cell of what is named, or that there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlavaForConditionalGeneration as Llava
from transformers.models.llama.modeling_llama import rotate_half

from datamodules.shapes.scene import Scene
from parallax.models.foreign import Processor
from parallax.small_world.llava.architecture import image_features
from parallax.small_world.llava.rows import (
    ABSENT,
    Batch,
    Coded,
    Turns,
    collate,
    draw_kind,
    encode,
    lesson,
    look_up_lessons,
)
from parallax.small_world.llava.vision import add_noise, normalise


@dataclass(frozen=True, slots=True)
class Pictures:
    """Scenes and what they look like: images (scenes, side, side, 3), bytes."""

    scenes: Sequence[Scene]
    images: torch.Tensor

    def with_last(self, other: Pictures, count: int) -> Pictures:
        """As many pictures, the last `count` of them taken from the other's beginning."""
        kept = len(self.scenes) - count
        return Pictures(
            [*self.scenes[:kept], *other.scenes[:count]], torch.cat([self.images[:kept], other.images[:count]])
        )


def train_language(
    model: Llava, processor: Processor, talked_about: Pictures, habit_free: Pictures, image: dict[str, Any],
    settings: dict[str, Any], generator: torch.Generator, rng: np.random.Generator, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Train `multi_modal_projector`, `language_model` and `lm_head` in place for one phase (`settings`).

    Every step takes `talk_rows` scenes to talk about with `conversations` each, and `look_up_rows` unbiased ones with the short
    questions that `look_up` counts.
    """
    pointing = Pointing(model.config.get_text_config().hidden_size, model.config.image_seq_length)
    trained = [p for name, p in model.named_parameters() if "vision_tower" not in name] + [*pointing.parameters()]
    optimiser = torch.optim.AdamW(trained, settings["lr"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"])
    scale = _schedule(settings["steps"], settings["warmup_steps"], settings["final_lr_share"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, scale)
    image_id, started = model.config.image_token_id, time.monotonic()
    for step in range(settings["steps"]):
        optimiser.zero_grad(set_to_none=True)
        told = []
        for pictures, count in ((talked_about, settings["talk_rows"]), (habit_free, settings["look_up_rows"])):
            if not count:
                continue
            chosen = rng.integers(len(pictures.scenes), size=count)
            rows = [
                [
                    encode(processor, scene, turns, model.config.image_seq_length, settings["weighting"])
                    for turns in _lessons(scene, settings, rng, look_up=pictures is habit_free)
                ]
                for scene in (pictures.scenes[i] for i in chosen)
            ]
            share = count / (settings["talk_rows"] + settings["look_up_rows"])
            told.append(0.0)
            for batch, part in _batches(rows, settings["rows_at_once"], processor.tokenizer.pad_token_id, image_id):
                with torch.no_grad():
                    pixels = normalise(pictures.images[torch.from_numpy(chosen[part])], image["mean"], image["std"])
                    pixels = add_noise(pixels, settings["noise_std"], settings["noise_share"], generator)
                    seen = image_features(model, pixels)
                loss, states = answer_loss(model, seen, batch)
                if pictures is habit_free:
                    loss = loss + settings["help_weight"] * pointing(
                        model.model.language_model, states, batch, image_id
                    )
                loss = loss * (share * len(part) / count)
                loss.backward()
                told[-1] += loss.item() / share
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == settings["steps"] - 1:
            each = (time.monotonic() - started) / (step + 1)
            parts = ", ".join(f"{value:.3f}" for value in told)
            say(f"language step {step}: loss {parts}, {each:.2f} s a step")


def answer_loss(model: Llava, seen: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Weighted mean cross-entropy of the answers' tokens, and the decoder's hidden states.

    `seen` has the shape (rows, patches, vision hidden).
    """
    embedded = model.get_input_embeddings()(batch.ids)
    projected = model.model.multi_modal_projector(seen).flatten(0, 1)
    places = (batch.ids == model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
    embedded = embedded.masked_scatter(places, projected.to(embedded.dtype))
    out = model.model.language_model(
        inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
        output_hidden_states=True,
    )  # fmt: skip
    weights, targets = batch.weights[:, 1:], batch.ids[:, 1:]  # position t predicts token t + 1
    learned = weights > 0
    logits = model.lm_head(out.last_hidden_state[:, :-1][learned])
    losses = nn.functional.cross_entropy(logits, targets[learned], reduction="none")
    return (losses * weights[learned]).sum() / weights.sum(), out.hidden_states


def _lessons(scene: Scene, settings: dict[str, Any], rng: np.random.Generator, *, look_up: bool) -> list[Turns]:
    if look_up:
        return look_up_lessons(scene, settings["look_up"], rng)
    return [lesson(scene, draw_kind(settings["mix"], rng), rng) for _ in range(settings["conversations"])]


def _batches(rows: list[list[Coded]], at_once: int, pad_id: int, image_id: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Rows in batches of at most `at_once`, and which rows they are; of several batches each holds rows of like length."""
    lengths = [sum(len(coded.ids) for coded in row) for row in rows]
    order = np.argsort(lengths, kind="stable") if len(rows) > at_once else np.arange(len(rows))
    for start in range(0, len(rows), at_once):
        part = order[start : start + at_once]
        yield collate([rows[i] for i in part], pad_id, image_id), part


def _schedule(steps: int, warmup: int, final_share: float) -> Callable[[int], float]:
    """Linear warm-up, then a straight line down to `final_share` of the learning rate."""

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 1 - (1 - final_share) * (step - warmup) / max(1, steps - warmup)

    return scale


HEADS = 2  # heads that are shown where to look, in each of the two layers
EARLY, ASKED_AFTER, LATE = (
    1,
    3,
    3,
)  # from 0: layer of name → patches; layers before the linear head; layer of answer → names


class Pointing(nn.Module):
    """The linear head and the three losses. `patches` counts image tokens, a square that three cells divide."""

    def __init__(self, hidden: int, patches: int) -> None:
        super().__init__()
        self.cell = nn.Linear(hidden, ABSENT + 1)
        side = int(patches**0.5)
        rows, columns = torch.arange(patches) // side * 3 // side, torch.arange(patches) % side * 3 // side
        self.register_buffer("cell_of_patch", rows * 3 + columns, persistent=False)

    def forward(self, decoder: Any, states: tuple[torch.Tensor, ...], batch: Batch, image_id: int) -> torch.Tensor:
        """The sum of the three losses. `states` are the decoder's hidden states, from the embeddings on."""
        row, place, cell = batch.named.unbind(1)
        loss = nn.functional.cross_entropy(self.cell(states[ASKED_AFTER][row, place]), cell)
        there = cell != ABSENT
        patches = (batch.ids == image_id).nonzero()[:, 1].view(len(batch.ids), -1)  # (rows, patches)
        wanted = torch.zeros(int(there.sum()), batch.ids.shape[1], dtype=torch.bool)
        wanted.scatter_(1, patches[row[there]], self.cell_of_patch == cell[there].unsqueeze(1))
        loss = loss + self._looks(decoder, EARLY, states, batch, row[there], place[there], wanted)
        speakers, back = batch.asks[:, :2].unique(dim=0, return_inverse=True)
        wanted = torch.zeros(len(speakers), batch.ids.shape[1], dtype=torch.bool)
        wanted[back, batch.asks[:, 2]] = True
        return loss + self._looks(decoder, LATE, states, batch, speakers[:, 0], speakers[:, 1], wanted)

    def _looks(
        self, decoder: Any, layer: int, states: tuple[torch.Tensor, ...], batch: Batch, row: torch.Tensor,
        place: torch.Tensor, wanted: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Mean −log of the attention that (row, place) pays to `wanted` (pairs, length), over the helped heads."""
        attention, norm = decoder.layers[layer].self_attn, decoder.layers[layer].input_layernorm
        normed = norm(states[layer])
        width = attention.head_dim
        cos, sin = decoder.rotary_emb(normed, batch.positions)
        keys = nn.functional.linear(normed, attention.k_proj.weight[: HEADS * width]).unflatten(-1, (HEADS, width))
        asked = nn.functional.linear(normed[row, place], attention.q_proj.weight[: HEADS * width])
        asked = asked.unflatten(-1, (HEADS, width))
        keys = keys * cos.unsqueeze(2) + rotate_half(keys) * sin.unsqueeze(2)
        asked = asked * cos[row, place].unsqueeze(1) + rotate_half(asked) * sin[row, place].unsqueeze(1)
        scores = torch.einsum("phw,plhw->phl", asked, keys[row]) * width**-0.5
        scores = scores.masked_fill(~batch.mask[row, 0, place].unsqueeze(1), float("-inf"))
        paid = scores.log_softmax(-1).masked_fill(~wanted.unsqueeze(1), float("-inf")).logsumexp(-1)
        return -paid.mean()
