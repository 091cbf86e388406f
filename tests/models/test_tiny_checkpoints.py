"""Toy checkpoints on disk are complete: they load with the Auto classes, see the image and speak their family's language."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.toys.tiny_checkpoints import RECIPES, make_tiny_checkpoint

FAMILIES = list(RECIPES)
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QWEN_TURN = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n"
)
IDEFICS_TURN = "<|im_start|>User:<image>What is this?<end_of_utterance>\nAssistant:"
TEMPLATES = {
    "llava": "USER: <image>\nWhat is this? ASSISTANT:",
    "llava_next": "[INST] <image>\nWhat is this? [/INST]",
    "qwen2_vl": QWEN_SYSTEM + QWEN_TURN,
    "qwen2_5_vl": QWEN_SYSTEM + QWEN_TURN,
    "qwen3_vl": QWEN_TURN,
    "internvl": "<|im_start|>user\n<IMG_CONTEXT>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n",
    "gemma3": "<bos><start_of_turn>user\n<start_of_image>What is this?<end_of_turn>\n<start_of_turn>model\n",
    "llava_onevision": "<|im_start|>user <image>\nWhat is this?<|im_end|><|im_start|>assistant\n",
    "smolvlm": IDEFICS_TURN,
    "idefics3": IDEFICS_TURN,
    "glm4v": "[gMASK]<sop><|user|>\n<|begin_of_image|><|image|><|end_of_image|>What is this?<|assistant|>\n",
}
ANSWERS = {
    "llava": "ASSISTANT: A cup.</s>",
    "llava_next": " A cup.</s>",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"), "assistant\nA cup.<|im_end|>\n"),
    "gemma3": "model\nA cup.<end_of_turn>\n",
    "llava_onevision": "assistant\nA cup.<|im_end|>",
    **dict.fromkeys(("smolvlm", "idefics3"), "Assistant: A cup.<end_of_utterance>\n"),
    "glm4v": "<|assistant|>\nA cup.",  # the next turn's mark ends it
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make_tiny_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def question(answer: str | None = None) -> list[dict]:
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
    return [asked] if answer is None else [asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 100, 3), np.uint8), "RGB")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_loads_looks_at_the_image_and_generates(family: str, folders: dict[str, Path]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folders[family])
    processor = AutoProcessor.from_pretrained(folders[family])
    assert model.config.model_type == family
    text = processor.apply_chat_template(question(), add_generation_prompt=True)
    assert text == TEMPLATES[family]
    batches = [processor(images=[picture(seed)], text=[text], return_tensors="pt") for seed in (0, 1)]
    with torch.no_grad():
        first, second = (model(**batch).logits[0, -1] for batch in batches)
        made = model.generate(**batches[0], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert not torch.equal(first, second)
    assert made.shape[1] == batches[0]["input_ids"].shape[1] + 3


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_close_an_answer_with_the_end_token(family: str, folders: dict[str, Path]) -> None:
    processor = AutoProcessor.from_pretrained(folders[family])
    assert processor.apply_chat_template(question("A cup.")).endswith(ANSWERS[family])
    model = AutoModelForImageTextToText.from_pretrained(folders[family])
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_take_any_text_and_keep_control_tokens_whole(family: str, folders: dict[str, Path]) -> None:
    tokenizer = AutoProcessor.from_pretrained(folders[family]).tokenizer
    for text in ("A red circle, 3 cups.", "naïve café – 日本語 🙂\n\ttabs", ""):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    for name in RECIPES[family].specials:
        assert len(tokenizer.encode(name, add_special_tokens=False)) == 1
    image = tokenizer.convert_tokens_to_ids(RECIPES[family].image)
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, image}) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_depend_on_the_seed_alone_and_are_small(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(99)
    again = make_tiny_checkpoint(family, tmp_path / "again")
    other = make_tiny_checkpoint(family, tmp_path / "other", seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (folders[family], again, other)]
    assert weights[0] == weights[1] != weights[2]
    assert sum(file.stat().st_size for file in again.iterdir()) < 3_000_000
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    make_tiny_checkpoint(family, tmp_path / "third")
    assert torch.equal(torch.rand(3), expected)


def test_a_family_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no tiny checkpoint of 'gpt2'; there are llava, llava_next, qwen2_5_vl, qwen2_vl"
    ):
        make_tiny_checkpoint("gpt2", tmp_path)
