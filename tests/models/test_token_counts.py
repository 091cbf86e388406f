"""Tokens counted without encoding are the tokens of the real encoding: every family, many sizes, texts of all sorts."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parallax.models.encoding.token_counts import PROBES, TokenCounts
from parallax.records import Conversation, Message, Response
from parallax.records.images import FileImage
from tests.toys.tiny_checkpoints import RECIPES, make_tiny_checkpoint
from tests.typed import load_policy

PROMPTS = (
    "What is this?",
    "Describe the image in detail, step by step.",
    " leading and trailing ",
    "control </s> <image> <|im_end|> tokens",
    "naïve café – 日本語 🙂\n\ttabs",
    "[INST] ASSISTANT: user",
    "",
)
ANSWERS = ("A cup.", "  spaces first", "It is 42.\nTwo lines.", "</s><|im_end|>", "日本語", "ASSISTANT: no", "\n", "a")


@pytest.fixture(scope="module", params=list(RECIPES))
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return load_policy({"name": request.param, "path": str(folder)}, {"r": 2}).encoder


def test_prompts_of_all_sizes_are_counted_as_they_are_encoded(encoder: Any, tmp_path: Path) -> None:
    draw = random.Random(4)
    sizes = [(draw.randint(8, 400), draw.randint(8, 400)) for _ in range(24)] + [(28, 28), (56, 28), (500, 20)]
    items = []
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / f"{number}.png")
        items.append(Conversation.plain(FileImage(str(tmp_path), f"{number}.png"), PROMPTS[number % len(PROMPTS)]))
    counted = TokenCounts(encoder).prompts(items)
    assert counted == [len(encoder.encode_conversation(item).input_ids) for item in items]
    two = Conversation(
        (Message("system", ("Compare.",)), Message("user", (items[0].images[0], *items[1].messages[0].parts)))
    )
    assert TokenCounts(encoder).prompts([two]) == [len(encoder.encode_conversation(two).input_ids)]
    flat = type(encoder.processor).__name__ in ("LlavaProcessor", "Gemma3Processor")
    assert (len(set(counted)) <= len(PROMPTS)) == flat == TokenCounts(encoder).size_does_not_matter()


def test_padding_to_a_square_is_counted(encoder: Any, tmp_path: Path) -> None:
    encoder.image_pad = True
    try:
        Image.new("RGB", (120, 40)).save(tmp_path / "wide.png")
        item = (FileImage(str(tmp_path), "wide.png"), "What is this?")
        asked = Conversation.plain(*item)
        assert TokenCounts(encoder).prompts([asked]) == [len(encoder.encode_conversation(asked).input_ids)]
    finally:
        encoder.image_pad = False


def test_answers_are_counted_as_they_are_encoded(encoder: Any) -> None:
    responses = [Response(text) for text in ANSWERS] + [
        Response("whatever", tuple(encoder.tokenizer.encode("some text", add_special_tokens=False)))
    ]
    assert TokenCounts(encoder).responses(responses) == [len(encoder.encode_response(r)) for r in responses]


def test_a_turned_photograph_has_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    image = FileImage(str(tmp_path), "turned.jpg")
    assert image.size() == image.load().size == (20, 40)


def test_ten_thousand_pairs_take_a_second_where_sizes_repeat(encoder: Any) -> None:
    class Sized:
        def __init__(self, number: int) -> None:
            self.number = number

        def size(self) -> tuple[int, int]:
            return 40 + self.number % 50, 60

    began = time.process_time()
    asked = [Conversation.plain(Sized(n), f"Question {n % 500} about it?") for n in range(10_000)]
    counted = TokenCounts(encoder).prompts(asked)
    assert len(counted) == 10_000 and time.process_time() - began < 2
    assert len(PROBES) < 10
