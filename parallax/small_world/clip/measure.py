"""How well pictures and sentences find each other, and whether true sentences score above near misses of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import CLIPModel

from datamodules.shapes.language import row_description
from datamodules.shapes.scene import Scene
from parallax.models.foreign import Tokenizer
from parallax.small_world.clip.architecture import embed_texts
from parallax.small_world.clip.texts import MISSES, kinds_of, near_miss, true_claim
from parallax.small_world.llava.pixels import normalise, paint


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
    for row, scene in enumerate(scenes):
        claim = true_claim(scene, rng)
        kinds = kinds_of(claim.form)
        said = [claim.text(), *(near_miss(claim, scene, rng, kind).text() for kind in kinds)]
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
        for scene in scenes[start : start + 100]:
            sentences = [part if part.endswith(".") else f"{part}." for part in row_description(scene).split(". ")]
            described.append(embed_texts(model, tokenizer, sentences).mean(dim=0))
        cosines = torch.stack(described) @ pictures[start : start + 100].T  # (text, picture)
        own = torch.arange(100)
        found_picture.append((cosines.argmax(dim=1) == own).float().mean().item())
        found_text.append((cosines.argmax(dim=0) == own).float().mean().item())
    return {"picture_of_text": float(np.mean(found_picture)), "text_of_picture": float(np.mean(found_text))}
