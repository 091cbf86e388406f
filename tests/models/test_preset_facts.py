"""Presets against facts from outside: towers as the hub's config.json has them, image tokens as the processors count them, and
the table of docs/models.md as the planner forecasts it.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from omegaconf import OmegaConf
from PIL import Image

from parallax.models.memory.capacity import GPUS, largest_micro_batch
from parallax.models.memory.model_shape import shape_of
from parallax.models.memory.workload import Workload
from parallax.models.scoring.log_probs import rows_per_chunk
from parallax.models.scoring.shared_prefix import is_plainly_causal
from parallax.models.true_size import config_of, meta_model
from parallax.tasks.capacity import IMAGE_TOKENS
from tests.toys.recipes import RECIPES
from tests.toys.tiny_checkpoints import tokenizer_of

ROOT = Path(__file__).parents[2]
CLIP_L, SIGLIP, QWEN_3 = (24, 1024, 4096), (27, 1152, 4304), (24, 1024, 4096)
TOWERS = {  # vision_config of the config.json beside each checkpoint: layers, width, inner width; positions an image token takes
    "llava15_7b": (*CLIP_L, 577 / 576),
    "llava15_13b": (*CLIP_L, 577 / 576),
    "llava16_mistral_7b": (*CLIP_L, 577 / 576),
    "qwen25_vl_7b": (32, 1280, 3420, 4),  # patches of 14 pixels, four to a token
    "qwen25_vl_3b": (32, 1280, 3420, 4),
    "qwen3_vl_8b": (*SIGLIP, 4),  # patches of 16 pixels, four to a token
    "qwen3_vl_4b": (*QWEN_3, 4),
    "qwen3_vl_2b": (*QWEN_3, 4),
    "internvl3_8b": (24, 1024, 4096, 1025 / 256),  # 32 x 32 patches of a tile and its class token, shuffled to 256
    "gemma3_4b": (*SIGLIP, 4097 / 256),  # 64 x 64 patches, pooled to 256
    "llava_onevision_7b": (26, 1152, 4304, 1),  # its last layer is not used and not there
    "smolvlm2_2b": (*SIGLIP, 9),  # 27 x 27 patches of a tile, nine to a token
}
WORK = Workload(
    prompt_tokens=1, image_tokens=1, response_tokens=256, layout="shared", weights="bfloat16", autocast="bfloat16",
    checkpointing=True, fused=True, rank=128,
)  # fmt: skip


def pixels(name: str) -> dict[str, int]:
    preset = OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml")
    return {"shortest_edge": preset.min_pixels, "longest_edge": preset.max_pixels}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def processor(name: str) -> Any:
    """The family's processor, set as preprocessor_config.json and the preset have it, around a toy's tokenizer."""
    family = OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml").family
    tokenizer = tokenizer_of(RECIPES[family])
    clip = {"size": {"shortest_edge": 336}, "crop_size": square(336)}
    of_clip = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    t = transformers
    if family == "llava":
        return t.LlavaProcessor(t.CLIPImageProcessor(**clip), tokenizer, **of_clip)
    if family == "llava_next":
        return t.LlavaNextProcessor(t.LlavaNextImageProcessor(**clip), tokenizer, **of_clip)
    if family == "llava_onevision":
        videos, strategy = t.LlavaOnevisionVideoProcessor(), "full"
        return t.LlavaOnevisionProcessor(t.LlavaOnevisionImageProcessor(), tokenizer, videos, 729, strategy)
    if family == "internvl":
        images = t.GotOcr2ImageProcessor(size=square(448), crop_to_patches=True, max_patches=12)
        return t.InternVLProcessor(images, tokenizer, t.InternVLVideoProcessor(), image_seq_length=256)
    if family == "gemma3":
        return t.Gemma3Processor(t.Gemma3ImageProcessor(), tokenizer, image_seq_length=256)
    if family == "qwen3_vl":
        images = t.Qwen2VLImageProcessor(size=pixels(name), patch_size=16)
        return t.Qwen3VLProcessor(images, tokenizer, t.Qwen3VLVideoProcessor())
    return t.Qwen2_5_VLProcessor(t.Qwen2VLImageProcessor(size=pixels(name)), tokenizer, t.Qwen2VLVideoProcessor())


@pytest.mark.parametrize("name", TOWERS)
def test_the_planner_sees_the_tower_that_the_checkpoint_has(name: str) -> None:
    tower = shape_of(meta_model(name)).vision
    assert tower is not None
    assert (tower.layers, tower.hidden, tower.intermediate) == TOWERS[name][:3]
    assert tower.positions_per_token == pytest.approx(TOWERS[name][3])


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "smolvlm2_2b"])
def test_the_planner_counts_the_image_tokens_that_the_processor_does(name: str) -> None:
    sizes = [(height, width) for height in range(16, 2600, 32) for width in range(16, 2600, 32)]
    sizes = [size for size in sizes if max(size) < 100 * min(size)]
    counted = max(processor(name)._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens)
    around = 2 if name == "internvl3_8b" else 0  # it counts the marks before and after an image, too
    assert IMAGE_TOKENS.get(name, 576) == counted - around


def test_smolvlm_cuts_a_large_image_into_sixteen_tiles_and_the_whole() -> None:
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})
    tiles = images(Image.new("RGB", (2000, 2000)), return_tensors="pt")["pixel_values"].shape[1]
    assert (
        tiles == 17
        and IMAGE_TOKENS["smolvlm2_2b"] == tiles * (384 // 14) ** 2 // config_of("smolvlm2_2b").scale_factor ** 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_the_table_of_presets_is_what_the_planner_forecasts(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|.*$", (ROOT / "docs" / "models.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    cells = [cell.strip() for cell in row.group().strip("|").split("|")]
    model, tokens = meta_model(name), IMAGE_TOKENS.get(name, 576)
    shape, kernel = shape_of(model), "prefix_sdpa" if is_plainly_causal(model) else "sdpa"
    work = replace(
        WORK,
        prompt_tokens=tokens + 64,
        image_tokens=tokens,
        attention=kernel,
        head_chunk=rows_per_chunk(shape.vocabulary),
    )
    found = [largest_micro_batch(shape, work, int(0.9 * GPUS[gpu].bytes)) for gpu in ("rtx4090", "a100_80gb", "h200")]
    assert cells[-3:] == [f"≥ {pairs}" if pairs == 256 else str(pairs) for pairs in found]
    assert str(tokens) in cells[2]
