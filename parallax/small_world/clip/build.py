"""The whole recipe, from settings to `assets/tiny_clip`. Everything random hangs on `settings["seed"]`; nothing is downloaded."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CLIPModel, CLIPProcessor

from datamodules.shapes.scene import generator, scene
from parallax.models.weights_digest import tensors_digest
from parallax.small_world.clip import measure
from parallax.small_world.clip.architecture import build_model, build_processor, build_tokenizer, states_of_tower
from parallax.small_world.clip.texts import texts
from parallax.small_world.clip.training import train
from parallax.small_world.llava.pixels import normalise, paint


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
    measured = measure.figures(model, tokenizer, held_out, image, generator("image-text measure", seed))
    return save(
        model, build_processor(tokenizer, images), settings, {"minutes_to_make": round(minutes, 1), **measured},
        tensors_digest(dict(tower.state_dict())),
    )  # fmt: skip


def save(
    model: CLIPModel, processor: CLIPProcessor, settings: dict[str, Any], figures: dict[str, Any], tower: str
) -> Path:
    """Write model (float16), processor and manifest in Hugging Face's format."""
    folder = Path(settings["output"])
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    manifest = {
        "what": "a small CLIP for the built-in world: how well a sentence fits a picture",
        "made_by": "python run.py experiment=make_tiny_clip",
        "config": "conf/tiny_clip/default.yaml",
        "settings": {key: value for key, value in settings.items() if key != "output"},
        "tower": tower,  # digest of the vision tower it stands on
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


def _tokenizer(settings: dict[str, Any]) -> Any:
    rng, seed = generator("image-text tokenizer", settings["seed"]), settings["seed"]
    said = [text for index in range(2000) for text in texts(scene("vision_train", index, seed), rng, 1)]
    return build_tokenizer(said, settings["text"]["vocabulary"], settings["text"]["context"])
