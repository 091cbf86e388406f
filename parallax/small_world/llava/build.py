"""The whole recipe, from settings to `assets/tiny_llava`: tokenizer, eyes, tongue, measurements, files.

Everything random hangs on `settings["seed"]`. Nothing is downloaded.

The tokenizer: byte-level BPE learned from the world's own sentences, so that common words are single tokens.

Bytes are the fallback: any text becomes tokens and comes back unchanged. Digits stand alone.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlavaForConditionalGeneration as Llava
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from datamodules.shapes.questions import DESCRIPTION_KINDS
from datamodules.shapes.scene import Scene, generator, scene
from datamodules.shapes.source import ShapesSource, pope_questions
from parallax.models.foreign import Processor
from parallax.records.atomic import atomic_file
from parallax.records.fingerprint import fingerprint
from parallax.small_world.llava import measure
from parallax.small_world.llava.architecture import build_model, build_processor
from parallax.small_world.llava.language_side import LATE, Pictures, train_language
from parallax.small_world.llava.measure import probe_accuracy
from parallax.small_world.llava.rows import LESSON_KINDS, lesson
from parallax.small_world.llava.vision import paint, train_vision


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
        asked = ShapesSource("eval_habit_free", max(2 * size // 5, 1), seed, kinds=(kind,))
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
    kept = {key: value for key, value in settings.items() if key != "stages"}
    what = "a small LLaVA for the built-in world; its eyes hold the truth, its tongue leans on habit"
    return save_with_manifest(model, processor, kept, "tiny_llava", {"what": what, "measured": figures})


def save_with_manifest(
    model: PreTrainedModel,
    processor: Processor | ProcessorMixin,
    settings: dict[str, Any],
    name: str,
    said: dict[str, Any],
) -> Path:
    """Write a model with its processor, and beside them how it was made and what is `said` of it."""
    folder = Path(settings["output"])
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(str(folder))
    manifest = {
        "made_by": f"python run.py experiment=make_{name}",
        "config": f"conf/{name}/default.yaml",
        "settings": {key: value for key, value in settings.items() if key != "output"},
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        **said,
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
    if layers <= LATE:
        raise ValueError(
            f"tiny_llava.language.layers is {layers}; layer {LATE + 1} is shown where to look, so give at least "
            f"{LATE + 1}"
        )


BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"


def build_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of at most `vocab_size` tokens. Every encoded text starts with the BOS token, as LLaVA's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, EOS, IMAGE)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[bos]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


SHAPED_BY = {  # the settings that shape a stage, besides those of the stages before it
    "vision_training": ("seed", "image", "vision"),
    "look_up_training": ("tokenizer", "language"),
    "talk_training": (),
}


def kept_stage(
    model: Llava, name: str, settings: dict[str, Any], teach: Callable[[], None], say: Callable[[str], None]
) -> float:
    """Teach a stage, or take its weights where they were kept. Returns the minutes its teaching took (or had taken).

    The vision stage keeps the tower, later ones the whole model. `settings["stages"]` is the folder; empty: keep nothing.
    """
    part = model.model.vision_tower if name == "vision_training" else model
    file = Path(settings["stages"]) / f"{name}-{stage_key(name, settings)}.safetensors"
    if settings["stages"] and file.is_file():
        part.load_state_dict(load_file(file))
        model.model.vision_tower.requires_grad_(False)
        with safe_open(file, "pt") as header:
            minutes = float(header.metadata()["minutes"])
        say(f"{name}: kept in {file} (took {minutes:.1f} minutes)")
        return minutes
    torch.manual_seed(settings["seed"])
    started = time.monotonic()
    teach()
    minutes = (time.monotonic() - started) / 60
    if settings["stages"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            save_file({k: v.contiguous() for k, v in part.state_dict().items()}, temporary, {"minutes": str(minutes)})
    return minutes


def stage_key(name: str, settings: dict[str, Any]) -> str:
    """By what a kept stage is found: every setting that shapes it or a stage before it."""
    names = list(SHAPED_BY)[: list(SHAPED_BY).index(name) + 1]
    return fingerprint({key: settings[key] for stage in names for key in (stage, *SHAPED_BY[stage])})
