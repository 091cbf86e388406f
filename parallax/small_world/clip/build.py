"""The whole recipe, from settings to `assets/tiny_clip`. Everything random hangs on `settings["seed"]`; nothing is downloaded.

Contrastive training (CLIP, arXiv 2103.00020, section 2.3) with near misses beside every true sentence.

Each picture has to find its own sentence among all true sentences of the batch and its own near misses; each true sentence has
to find its picture. The frozen layers' states are computed once for all scenes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPProcessor

from datamodules.shapes.language import row_description
from datamodules.shapes.scene import Scene, generator, scene
from parallax.models.foreign import Tokenizer
from parallax.models.ingredients import tensors_digest
from parallax.small_world.clip.architecture import (
    build_model,
    build_processor,
    build_tokenizer,
    embed_states,
    embed_texts,
    states_of_tower,
)
from parallax.small_world.clip.texts import MISSES, kinds_of, near_miss, texts, true_claim
from parallax.small_world.llava.build import save_with_manifest
from parallax.small_world.llava.vision import normalise, paint


def make_tiny_clip(settings: dict[str, Any], say: Callable[[str], None] = print) -> Path:
    """Make the model as `settings` (the `tiny_clip` config group) says and write it to `settings["output"]`."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(settings["threads"])
    seed, training, started = settings["seed"], settings["training"], time.monotonic()
    torch.manual_seed(seed)
    llava = AutoModelForImageTextToText.from_pretrained(settings["tower"]).float().eval()
    tower = llava.model.vision_tower
    images = AutoProcessor.from_pretrained(settings["tower"]).image_processor
    image = {"mean": float(images.image_mean[0]), "std": float(images.image_std[0])}
    tokenizer = _tokenizer(settings)
    model = build_model(tower, tokenizer, settings)
    frozen = tower.config.num_hidden_layers
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")

    scenes = [scene("vision_train", index, seed) for index in range(training["scenes"])]
    states = torch.empty(
        len(scenes), (tower.config.image_size // tower.config.patch_size) ** 2 + 1, tower.config.hidden_size
    )
    with torch.no_grad():
        for start in range(0, len(scenes), 256):
            pixels = normalise(paint(scenes[start : start + 256]), image["mean"], image["std"])
            states[start : start + 256] = states_of_tower(model, pixels, frozen)
    train(model, tokenizer, states, scenes, frozen, training, generator("image-text", seed), say)

    model.half().float().eval()  # measured as it is stored
    minutes = (time.monotonic() - started) / 60
    held_out = [scene("eval_habit_free", index, seed) for index in range(settings["measure"]["scenes"])]
    measured = figures(model, tokenizer, held_out, image, generator("image-text measure", seed))
    return save(
        model, build_processor(tokenizer, images), settings, {"minutes_to_make": round(minutes, 1), **measured},
        tensors_digest(dict(tower.state_dict())),
    )  # fmt: skip


def save(
    model: CLIPModel, processor: CLIPProcessor, settings: dict[str, Any], figures: dict[str, Any], tower: str
) -> Path:
    """Write model (float16), processor and manifest in Hugging Face's format. `tower`: digest of what it stands on."""
    what = "a small CLIP for the built-in world: how well a sentence fits a picture"
    said = {"what": what, "tower": tower, "measured": figures}
    return save_with_manifest(model.half(), processor, settings, "tiny_clip", said)


def _tokenizer(settings: dict[str, Any]) -> Any:
    rng, seed = generator("image-text tokenizer", settings["seed"]), settings["seed"]
    said = [text for index in range(2000) for text in texts(scene("vision_train", index, seed), rng, 1)]
    return build_tokenizer(said, settings["text"]["vocabulary"], settings["text"]["context"])


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


@torch.no_grad()
def embed_pictures(
    model: CLIPModel, scenes: Sequence[Scene], image: dict[str, float], batch: int = 256
) -> torch.Tensor:
    """Image embeddings of length 1 by the model's own forward. Shape: (len(scenes), projection)."""
    parts = []
    for start in range(0, len(scenes), batch):
        pixels = normalise(paint(scenes[start : start + batch]), image["mean"], image["std"])
        parts.append(torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1))
    return torch.cat(parts)


@torch.no_grad()
def figures(
    model: CLIPModel, tokenizer: Tokenizer, scenes: Sequence[Scene], image: dict[str, float], rng: np.random.Generator
) -> dict[str, Any]:
    """All figures on these scenes. Chance is 1/100 for retrieval among 100 scenes and 1/2 for everything else.

    `retrieval`: a description's sentences, cosines averaged, find their picture among 100, and the other way round.
    `pairs`: share of near misses, by kind, whose true sentence has the larger cosine with the same picture.
    `auc`: a true sentence about any picture against a near miss about any other: one threshold for all pictures.
    """
    pictures = embed_pictures(model, scenes, image)
    pairs: dict[str, list[bool]] = {kind: [] for kind in MISSES}
    true, false = [], []
    for row, drawn in enumerate(scenes):
        claim = true_claim(drawn, rng)
        kinds = kinds_of(claim.form)
        said = [claim.text(), *(near_miss(claim, drawn, rng, kind).text() for kind in kinds)]
        cosines = (embed_texts(model, tokenizer, said) @ pictures[row]).tolist()
        true.append(cosines[0])
        false.extend(cosines[1:])
        for kind, cosine in zip(kinds, cosines[1:], strict=True):
            pairs[kind].append(cosines[0] > cosine)
    every = [won for kind in MISSES for won in pairs[kind]]
    return {
        "scenes": len(scenes),
        "retrieval": _retrieval(model, tokenizer, scenes, pictures),
        "pairs": {kind: float(np.mean(pairs[kind])) for kind in MISSES} | {"all": float(np.mean(every))},
        "auc": auc(true, false),
    }


def auc(true: Sequence[float], false: Sequence[float]) -> float:
    """Share of (true, false) pairs in which the true one is larger; equal ones count half."""
    values = np.concatenate([true, false])
    order = values.argsort(kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        same = values == value
        if same.sum() > 1:
            ranks[same] = ranks[same].mean()
    below = ranks[: len(true)].sum() - len(true) * (len(true) + 1) / 2
    return float(below / (len(true) * len(false)))


def _retrieval(
    model: CLIPModel, tokenizer: Tokenizer, scenes: Sequence[Scene], pictures: torch.Tensor
) -> dict[str, float]:
    found_picture, found_text = [], []
    for start in range(0, len(scenes) - 99, 100):
        described = []
        for drawn in scenes[start : start + 100]:
            sentences = [part if part.endswith(".") else f"{part}." for part in row_description(drawn).split(". ")]
            described.append(embed_texts(model, tokenizer, sentences).mean(dim=0))
        cosines = torch.stack(described) @ pictures[start : start + 100].T  # (text, picture)
        own = torch.arange(100)
        found_picture.append((cosines.argmax(dim=1) == own).float().mean().item())
        found_text.append((cosines.argmax(dim=0) == own).float().mean().item())
    return {"picture_of_text": float(np.mean(found_picture)), "text_of_picture": float(np.mean(found_text))}
