"""What the model says, and how much of it is true: batched greedy answers, CHAIR, answer accuracy, yes/no figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration as Llava

from datamodules.shapes import instructions
from datamodules.shapes.language import mentioned_objects, same_answer
from datamodules.shapes.scene import COLOURS, SHAPES, Scene, generator
from datamodules.shapes.source import ShapesSource
from parallax.models.foreign import Processor
from parallax.records.sample import Sample
from parallax.small_world.llava.architecture import image_features
from parallax.small_world.llava.rows import messages
from parallax.small_world.llava.vision import by_cell, diffuse, normalise, paint


@torch.no_grad()
def greedy_answers(
    model: Llava, processor: Processor, samples: Sequence[Any], image: dict[str, Any], noise_step: int | None = None,
    batch: int = 256, seed: int = 0,
) -> list[str]:  # fmt: skip
    """The model's greedy answer to each sample's first question, on the clean image or at a noise step (0-999)."""
    prompts = [
        processor.apply_chat_template(messages([(s.question, "")])[:1], add_generation_prompt=True, tokenize=False)
        for s in samples
    ]
    prompts = [p.replace("<image>", "<image>" * model.config.image_seq_length, 1) for p in prompts]
    order = sorted(range(len(samples)), key=lambda i: len(prompts[i]))
    answers = [""] * len(samples)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        pixels = normalise(paint([samples[i].image.scene for i in chosen]), image["mean"], image["std"])
        if noise_step is not None:
            pixels = diffuse(pixels, noise_step, torch.Generator().manual_seed(seed * 1_000_003 + start))
        coded = processor.tokenizer(
            [prompts[i] for i in chosen], return_tensors="pt", padding=True, padding_side="left"
        )
        out = model.generate(
            input_ids=coded["input_ids"], attention_mask=coded["attention_mask"], pixel_values=pixels,
            do_sample=False, max_new_tokens=96,
        )  # fmt: skip
        texts = processor.tokenizer.batch_decode(out[:, coded["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = text.strip()
    return answers


def chair(texts: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
    """Hallucinated mentions per mention, descriptions with any, and the share of true objects that are mentioned."""
    mentions = wrong = corrupted = found = objects = 0
    for text, sample in zip(texts, samples, strict=True):
        said, true = mentioned_objects(text), set(sample.objects or ())
        false = [phrase for phrase in said if phrase not in true]
        mentions, wrong, corrupted = mentions + len(said), wrong + len(false), corrupted + bool(false)
        found, objects = found + len(set(said) & true), objects + len(true)
    return {
        "chair_i": wrong / max(1, mentions),
        "chair_s": corrupted / max(1, len(texts)),
        "recall": found / max(1, objects),
        "mentions": mentions / max(1, len(texts)),
    }


def accuracy_by_kind(texts: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
    """Share of right answers, per question kind."""
    right: dict[str, list[bool]] = {}
    for text, sample in zip(texts, samples, strict=True):
        right.setdefault(sample.kind, []).append(same_answer(sample.kind, text, sample.answer or ""))
    return {kind: sum(values) / len(values) for kind, values in right.items()}


def yes_no(texts: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
    """Accuracy per POPE category and over all, and the share of answers that are yes."""
    figures: dict[str, list[bool]] = {}
    yes = 0
    for text, sample in zip(texts, samples, strict=True):
        said_yes = not re.search(r"\b(no|not)\b", text.split(".")[0].lower())
        yes += said_yes
        for name in (sample.attributes["category"], "all"):
            figures.setdefault(name, []).append(said_yes == (sample.attributes["label"] == "yes"))
    return {**{name: sum(v) / len(v) for name, v in figures.items()}, "yes_share": yes / max(1, len(texts))}


def judging(
    model: Llava, processor: Processor, split: str, scenes: int, image: dict[str, Any], seed: int
) -> dict[str, float]:
    """Verdicts on a true description and one with one to three absent things, asked in both orders.

    `right`: share of verdicts for the true one. `agreed`: share of pairs whose two verdicts agree. `first`: share of [[1]].
    """
    rng = generator("judging", split, seed)
    asked, truths = [], []
    samples: Sequence[Any] = ShapesSource(split, scenes, seed)
    for sample in samples:
        question, good, bad, _ = instructions.described_twice(sample.image.scene, rng, 0)
        for first, second, truth in ((good, bad, "[[1]]"), (bad, good, "[[2]]")):
            prompt = instructions.judge_prompt(question, first, second)
            asked.append(replace(sample, turns=(replace(sample.turns[0], question=prompt),)))
            truths.append(truth)
    said = greedy_answers(model, processor, asked, image)
    agreed = [{a, b} == {"[[1]]", "[[2]]"} for a, b in zip(said[::2], said[1::2], strict=True)]
    right = [a == b for a, b in zip(said, truths, strict=True)]
    return {
        "right": sum(right) / len(right),
        "agreed": sum(agreed) / len(agreed),
        "first": said.count("[[1]]") / len(said),
    }


def differing_share(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of pairs of answers that differ after white space is made equal."""
    return sum(a.split() != b.split() for a, b in zip(first, second, strict=True)) / max(1, len(first))


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
