"""Relevance of sentences to pictures: it is CLIP's own cosine, in any batch, from the cache, and nothing is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from parallax.models.image_text import ImageTextModel
from parallax.small_world.clip.architecture import build_model, build_processor, build_tokenizer
from tests.models.checkpoints import TEXT
from tests.models.examples import Picture

PAIRS = [(Picture(i % 3), f"There is a {word} star.") for i, word in enumerate(("red", "green", "small", "yellow"))]
SETTINGS: dict[str, Any] = {
    "projection": 16,
    "vision": {"layers": 1},
    "text": {"hidden": 16, "intermediate": 32, "layers": 1, "heads": 2, "context": 24},
}


@pytest.fixture(scope="module")
def folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random small CLIP on disk, with texts of at most 24 tokens."""
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    llava: Any = AutoModelForImageTextToText.from_pretrained(str(checkpoints["llava"]))
    tokenizer = build_tokenizer(TEXT, 400, 24)
    model = build_model(llava.model.vision_tower, tokenizer, SETTINGS)
    model.save_pretrained(str(path))
    images = AutoProcessor.from_pretrained(str(checkpoints["llava"])).image_processor
    build_processor(tokenizer, images).save_pretrained(str(path))
    return path


def test_it_is_the_cosine_that_clip_computes_itself(folder: Path) -> None:
    model, processor = AutoModel.from_pretrained(str(folder)).eval(), AutoProcessor.from_pretrained(str(folder))
    ours = ImageTextModel(str(folder)).cosines(PAIRS)
    for (image, text), cosine in zip(PAIRS, ours, strict=True):
        inputs = processor(text=[text], images=image.load(), return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            theirs = model(**inputs).logits_per_image[0, 0] / model.logit_scale.exp()
        assert cosine == pytest.approx(float(theirs), abs=1e-5)
    assert len(set(ours)) == 4


def test_batches_do_not_change_it_and_each_thing_is_embedded_once(folder: Path) -> None:
    one, many = ImageTextModel(str(folder), batch_size=1), ImageTextModel(str(folder), batch_size=8)
    crossed = [(image, text) for image, _ in PAIRS for _, text in PAIRS]
    assert one.cosines(crossed) == pytest.approx(many.cosines(crossed), abs=1e-6)
    assert (many.computed, many.reused) == (12, 0)  # three pictures, four sentences


def test_results_are_found_again_without_loading_the_model(folder: Path, tmp_path: Path) -> None:
    first = ImageTextModel(str(folder), cache_dir=tmp_path).cosines(PAIRS)
    again = ImageTextModel(str(folder), cache_dir=tmp_path)
    assert again.cosines(PAIRS) == first and (again.computed, again.reused) == (0, 4)
    assert again._network is None
    assert again.cosines([*PAIRS, (Picture(9), "A circle.")])[:4] == first and again.computed == 1


def test_a_result_is_named_by_weights_picture_text_and_precision(folder: Path, tmp_path: Path) -> None:
    model = ImageTextModel(str(folder), cache_dir=tmp_path)
    base = model._key(Picture(1), "A star.", "cpu")
    assert model._key(Picture(1), "A star.", "cpu") == base
    assert model._key(Picture(2), "A star.", "cpu") != base and model._key(Picture(1), "A stare.", "cpu") != base
    assert ImageTextModel(str(folder), dtype="bfloat16")._key(Picture(1), "A star.", "cpu") != base
    assert len(model.digest()) == 32


def test_a_long_text_is_read_sentence_by_sentence_and_a_long_sentence_in_stretches(folder: Path) -> None:
    model = ImageTextModel(str(folder))
    text = (
        "There is a red square. A small green triangle is above the yellow star. "
        + "red square circle " * 12
        + "x" * 40
        + "."
    )
    parts = model.parts(text)
    assert len(parts) > 3 and all(count <= 24 for _, count in parts)
    assert [part for part, _ in parts[:2]] == [
        "There is a red square.",
        "A small green triangle is above the yellow star.",
    ]
    assert "".join("".join(part for part, _ in parts).split()) == "".join(text.split())  # not a letter is lost
    (whole,) = model.cosines([(Picture(1), text)])
    each = model.cosines([(Picture(1), part) for part, _ in parts])
    total = sum(count for _, count in parts)
    assert whole == pytest.approx(sum(c * n for c, (_, n) in zip(each, parts, strict=True)) / total, abs=1e-5)


def test_an_empty_text_and_a_model_that_is_no_clip_are_refused(folder: Path, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="an empty text fits no picture"):
        ImageTextModel(str(folder)).cosines([(Picture(1), " ")])
    assert ImageTextModel(str(folder)).cosines([]) == []
    with pytest.raises(ValueError, match="give a CLIP-like model such as openai/clip-vit-large-patch14-336"):
        ImageTextModel(str(checkpoints["llava"])).cosines(PAIRS)
