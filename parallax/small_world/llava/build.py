"""The whole recipe, from settings to `assets/tiny_llava`: tokenizer, eyes, tongue, measurements, files.

Everything random hangs on `settings["seed"]`. Nothing is downloaded.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlavaForConditionalGeneration as Llava

from datamodules.shapes.questions import DESCRIPTION_KINDS
from datamodules.shapes.scene import Scene, generator, scene
from datamodules.shapes.source import ShapesSource, pope_questions
from parallax.models.foreign import Processor
from parallax.small_world.llava import measure, pointing
from parallax.small_world.llava.architecture import build_model, build_processor
from parallax.small_world.llava.language_side import Pictures, train_language
from parallax.small_world.llava.lessons import LESSON_KINDS, lesson
from parallax.small_world.llava.pixels import paint
from parallax.small_world.llava.probe import probe_accuracy
from parallax.small_world.llava.stages import SHAPED_BY, kept_stage
from parallax.small_world.llava.tokenizer import build_tokenizer
from parallax.small_world.llava.vision import train_vision


def make_tiny_llava(settings: dict[str, Any], say: Callable[[str], None] = print) -> Path:
    """Make the model as `settings` (the `tiny_llava` config group) says and write it to `settings["output"]`.

    Finished stages are kept in `settings["stages"]` and found again by all settings that shape them.
    Raises `ValueError` when the picture side is not the world's, or not a multiple of three patches.
    """
    _check(settings)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    processor = make_processor(settings)
    model = build_model(processor.tokenizer, settings["image"], settings["vision"], settings["language"])
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(processor.tokenizer)} tokens")
    minutes = 0.0
    for stage in SHAPED_BY:
        teach = partial(_teach, stage, model, processor, settings, say)
        minutes += kept_stage(model, stage, settings, teach, say)
    model.eval()
    figures = measure_model(model, processor, settings)
    return save(model, processor, settings, {"minutes_to_make": round(minutes, 1), **figures})


def make_processor(settings: dict[str, Any]) -> Any:
    """The tokenizer learns from some thousands of lessons; the image side is fixed by `settings["image"]`."""
    rng = generator("tokenizer", settings["seed"])
    texts = (
        f"USER: \n{question} ASSISTANT: {answer}"
        for i in range(settings["tokenizer"]["lessons"])
        for question, answer in lesson(
            scene("base_train", i, settings["seed"]), LESSON_KINDS[i % len(LESSON_KINDS)], rng
        )
    )
    tokenizer = build_tokenizer(texts, settings["tokenizer"]["vocabulary"], settings["language"]["context"])
    return build_processor(tokenizer, settings["image"])


def _teach(
    stage: str, model: Llava, processor: Processor, settings: dict[str, Any], say: Callable[[str], None]
) -> None:
    training, seed, image = settings[stage], settings["seed"], settings["image"]
    noise, rng = torch.Generator().manual_seed(seed), generator(stage.removesuffix("_training"), seed)
    habit_free = _pictures("vision_train", training["scenes"], seed)
    if stage == "vision_training":
        train_vision(model, habit_free.images, habit_free.scenes, image, training, noise, say)
        return
    unusual = round(training["habit_free_share"] * training["scenes"])
    talked_about = _pictures("base_train", training["scenes"], seed).with_last(habit_free, unusual)
    train_language(model, processor, talked_about, habit_free, image, training, noise, rng, say)


def _pictures(split: str, size: int, seed: int) -> Pictures:
    scenes = _scenes(split, size, seed)
    return Pictures(scenes, paint(scenes))


def measure_model(model: Llava, processor: Processor, settings: dict[str, Any]) -> dict[str, Any]:
    """Probe, CHAIR, answers, POPE and the share of answers that noise changes, on `settings["measure"]["scenes"]` scenes."""
    size, seed, image = settings["measure"]["scenes"], settings["seed"], settings["image"]
    figures: dict[str, Any] = {
        "probe": probe_accuracy(
            model, _scenes("vision_train", 2 * size, seed + 1), _scenes("eval_habit_free", size, seed), image
        )
    }
    for split in ("eval_habit_free", "eval_habitual"):
        asked = ShapesSource(split, size, seed)
        said = measure.greedy_answers(model, processor, asked, image)
        figures[split] = measure.chair(said, asked)
        figures[split]["tokens"] = float(np.mean([len(processor.tokenizer(t)["input_ids"]) for t in said]))
        if split == "eval_habit_free":
            figures["differing"] = {
                str(step): measure.differing_share(said, measure.greedy_answers(model, processor, asked, image, step))
                for step in settings["measure"]["noise_steps"]
            }
    figures["manners"] = {}
    for kind in DESCRIPTION_KINDS:
        asked = ShapesSource("eval_habit_free", 2 * size // 5, seed, kinds=(kind,))
        figures["manners"][kind] = measure.chair(measure.greedy_answers(model, processor, asked, image), asked)
    short = ShapesSource(
        "eval_habit_free", 3 * size, seed, kinds=("exist", "colour", "count", "where", "relation", "number")
    )
    figures["accuracy"] = measure.accuracy_by_kind(measure.greedy_answers(model, processor, short, image), short)
    pope = pope_questions("eval_habit_free", size // 2, seed)
    figures["pope"] = measure.yes_no(measure.greedy_answers(model, processor, pope, image), pope)
    figures["judging"] = measure.judging(model, processor, "eval_habit_free", size // 2, image, seed)
    return figures


def save(model: Llava, processor: Processor, settings: dict[str, Any], figures: dict[str, Any]) -> Path:
    """Write model, processor and manifest in Hugging Face's format."""
    folder = Path(settings["output"])
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(str(folder))
    manifest = {
        "what": "a small LLaVA for the built-in world; its eyes hold the truth, its tongue leans on habit",
        "made_by": "python run.py experiment=make_tiny_llava",
        "config": "conf/tiny_llava/default.yaml",
        "settings": {key: value for key, value in settings.items() if key not in ("output", "stages")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "measured": figures,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return folder


def _scenes(split: str, size: int, seed: int) -> list[Scene]:
    return [scene(split, index, seed) for index in range(size)]


def _check(settings: dict[str, Any]) -> None:
    side, patch = settings["image"]["side"], settings["image"]["patch"]
    if side != 96 or side % (3 * patch):
        raise ValueError(
            f"tiny_llava.image has side {side} and patch {patch}; scenes are 96 pixels wide in 3 x 3 cells, so the side "
            "must be 96 and the patch a divisor of 32 (16 or 8)"
        )
    layers = settings["language"]["layers"]
    if layers <= pointing.LATE:
        raise ValueError(
            f"tiny_llava.language.layers is {layers}; layer {pointing.LATE + 1} is shown where to look, so give at least "
            f"{pointing.LATE + 1}"
        )
