"""The built-in image-text model: its sentences are true or false as they say, it is small, and it tells the two apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModel, AutoProcessor

from datamodules.shapes.language import PLACES, mentioned_objects
from datamodules.shapes.scene import generator, scene
from datamodules.shapes.source import SceneImage
from parallax.models.image_text import ImageTextModel
from parallax.small_world.clip.build import auc, contrastive_loss, make_tiny_clip
from parallax.small_world.clip.texts import MISSES, kinds_of, near_miss, true_claim

ASSET = Path("assets/tiny_clip")
SCENES = [scene("eval_habit_free", index) for index in range(60)]


def is_true(text: str, of: Any) -> bool:
    """What a reader who sees the scene would say, worked out from the text alone."""
    if "sign" in text:
        return int("".join(filter(str.isdigit, text))) == of.number
    things = {thing.phrase: thing for thing in of.things}
    named = [things.get(phrase) for phrase in mentioned_objects(text)]
    if None in named:
        return False
    if " row has " in text:
        row = ("top", "middle", "bottom").index(text.split()[1])
        return {thing.phrase for thing in of.things if thing.row == row} == set(mentioned_objects(text))
    if text.startswith(("First", "Then")):
        (thing,) = named
        return thing is not None and text.split(", ")[1] == PLACES[thing.cell]
    return True


@pytest.mark.parametrize("index", range(20))
def test_claims_are_true_and_every_near_miss_is_false(index: int) -> None:
    rng = generator("test", index)
    for _ in range(10):
        claim = true_claim(SCENES[index], rng)
        assert is_true(claim.text(), SCENES[index]), claim
        for kind in kinds_of(claim.form):
            assert not is_true(near_miss(claim, SCENES[index], rng, kind).text(), SCENES[index]), (claim, kind)


def test_the_loss_is_cross_entropy_in_both_directions() -> None:
    """Two pictures that fit their own sentences perfectly, one near miss each at right angles: logits s, 0 | 0."""
    eye = torch.eye(4)
    sentences = torch.stack([torch.stack([eye[0], eye[2]]), torch.stack([eye[1], eye[3]])])
    loss = contrastive_loss(eye[:2], sentences, torch.tensor(2.0))
    to_text, to_picture = -(torch.tensor([2.0, 0, 0]).log_softmax(0)[0]), -(torch.tensor([2.0, 0]).log_softmax(0)[0])
    assert float(loss) == pytest.approx(float(to_text + to_picture) / 2, abs=1e-6)


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert auc([3.0, 2.0], [1.0, 2.0]) == pytest.approx((1 + 1 + 1 + 0.5) / 4)


def test_the_recipe_runs_and_writes_what_transformers_loads(tmp_path: Path) -> None:
    settings: Any = OmegaConf.to_container(OmegaConf.load("conf/tiny_clip/default.yaml"))
    settings |= {"output": str(tmp_path / "made"), "measure": {"scenes": 100}}
    settings["training"] |= {"scenes": 40, "steps": 2, "batch": 8}
    said: list[str] = []
    folder = make_tiny_clip(settings, said.append)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["measured"]["pairs"]) == {*MISSES, "all"} and any("loss" in line for line in said)
    assert type(AutoModel.from_pretrained(folder)).__name__ == "CLIPModel"
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "CLIPProcessor"


@pytest.mark.skipif(not ASSET.is_dir(), reason="the model has not been made: python run.py experiment=make_tiny_clip")
def test_the_shipped_model_is_small_and_rewards_true_sentences() -> None:
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 5_000_000
    rng = generator("test", "shipped")
    pairs = []
    for index, of in enumerate(SCENES):
        claim = true_claim(of, rng)
        image = SceneImage(of, f"shapes:{index}")
        pairs += [(image, claim.text()), (image, near_miss(claim, of, rng).text())]
    cosines = ImageTextModel(str(ASSET)).cosines(pairs)
    won = sum(true > false for true, false in zip(cosines[::2], cosines[1::2], strict=True))
    assert won >= 0.75 * len(SCENES)
