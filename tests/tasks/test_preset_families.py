"""Every preset's family goes all the way on a toy checkpoint: SeVa on a folder of images, and DPO on a file of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from augment.diffusion import schedule
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.records import ViewSpec
from parallax.records.images import FileImage
from parallax.records.pair_store import PairSet
from parallax.tasks.program import run
from tests.toys.recipes import RECIPES
from tests.toys.tiny_checkpoints import make_tiny_checkpoint, tokenizer_of
from tests.typed import load_policy

CONF = Path(__file__).parents[2] / "conf" / "model"
FAMILY = {path.stem: OmegaConf.load(path).get("family") for path in sorted(CONF.glob("*.yaml"))}
PRESETS = {
    family: preset for preset, family in FAMILY.items() if family and preset != "tiny_llava"
}  # one of each family
QUICK = ("smolvlm",)  # tiles, and a placeholder that its tokenizer does not have
TILED = ["internvl", "smolvlm", "idefics3", "llava_next", "llava_onevision"]
SIZES = [(60, 60), (120, 70), (70, 120), (200, 150), (97, 133), (300, 80)]
SMALL = (
    "evaluation=none", "logger=csv", "trainer=cpu", "trainer.max_steps=2", "trainer.max_epochs=2", "trainer.batch_size=4",
    "trainer.micro_batch_size=2", "generation.max_new_tokens=8", "lora.r=4", "optim.lr=1e-3",
)  # fmt: skip


def drawn(number: int) -> Image.Image:
    picture = Image.new("RGB", SIZES[number], (40 * number, 255 - 30 * number, 90))
    x, y = (side // 2 for side in picture.size)
    ImageDraw.Draw(picture).ellipse((x - 20, y - 20, x + 5 * number, y + 20), fill=(250, 60, 20 * number))
    return picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(len(SIZES)):
        drawn(number).save(folder / f"{number}.png")
    return folder


def words_of(family: str, toy: Path) -> list[str]:
    """The family's preset where there is one, with the toy for its weights."""
    return [f"model={PRESETS.get(family, 'hub')}", f"model.path={toy}"]


@pytest.mark.parametrize(
    "family", [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in RECIPES]
)
def test_a_family_runs_seva_and_dpo_to_the_end(family: str, pictures: Path, tmp_path: Path) -> None:
    toy = make_tiny_checkpoint(family, tmp_path / "toy")
    common = [*SMALL, *words_of(family, toy), f"paths.cache_dir={tmp_path / 'cache'}"]
    seva = run([
        *common, "method=seva", "data=image_folder", f"data.path={pictures}", "aug.noise_steps=500",
        f"paths.output_dir={tmp_path / 'seva'}",
    ])  # fmt: skip
    pairs = seva["pairs"]
    assert pairs["built"] == 2 * len(SIZES) and pairs["kept"] >= 2 and seva["steps"] == 2
    assert pairs["kept"] + pairs["dropped"].get("equal", 0) == len(SIZES)
    answers_are_those_of_plain_generate(OmegaConf.load(seva.folder / "config.yaml").model, seva.folder, pictures)

    rows = [
        {"image": f"{n % len(SIZES)}.png", "question": f"What is number {n}?", "chosen": f"{n} red dots.", "rejected": f"No {n}."}
        for n in range(8)
    ]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dpo = run([
        *common, "method=dpo_file", f"data.path={file}", f"data.image_root={pictures}", f"paths.output_dir={tmp_path / 'dpo'}",
    ])  # fmt: skip
    assert dpo["pairs"]["kept"] == len(rows) and dpo["pairs"]["built"] == 0 and dpo["steps"] == 2
    for results in (seva, dpo):
        loads_with_plain_peft(toy, Path(results["adapter"]))


def answers_are_those_of_plain_generate(model: Any, folder: Path, pictures: Path) -> None:
    """Chosen: what transformers says to the clean image; rejected: to the noised one, each by a seed of its own."""
    from transformers import AutoModelForImageTextToText

    policy = load_policy(model, {"r": 4})
    encoder, network = policy.encoder, AutoModelForImageTextToText.from_pretrained(model.path)
    pairs = PairSet(json.loads((folder / "stages/align/pairs.json").read_text())["pair_set"]).load(
        lambda _, name: FileImage(pictures, name)
    )
    seeds = set()
    for pair in pairs:
        view = ViewSpec(**pair.rejected[0].provenance["view"])
        assert view.name == "diffusion" and view.params == {"noise_steps": 500}
        seeds.add(view.seed)
        for response, shown in ((pair.chosen, ViewSpec()), (pair.rejected[0], view)):
            prompt = encoder.encode_prompt(pair.image.load(), pair.prompt, shown)
            inputs = {name: value[None] for name, value in prompt.token_inputs.items()} | prompt.vision
            said = network.generate(
                input_ids=prompt.input_ids[None], attention_mask=torch.ones(1, len(prompt.input_ids)), **inputs,
                max_new_tokens=8, suppress_tokens=sorted(encoder.never_said),
            )  # fmt: skip
            assert said[0, len(prompt.input_ids) :].tolist() == list(response.token_ids or ())
    assert len(seeds) == len(pairs)


def loads_with_plain_peft(toy: Path, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(toy), str(adapter))
    inside = {name.replace(".default", ""): value for name, value in model.named_parameters() if "lora_" in name}
    saved = load_file(adapter / "adapter_model.safetensors")
    assert saved.keys() == inside.keys() and all(torch.equal(saved[name], inside[name]) for name in saved)
    assert all(bool(value.any()) for name, value in saved.items() if "lora_B" in name), "every layer was trained"


@pytest.mark.parametrize("family", TILED)
def test_noise_is_on_each_tile_and_the_seeds_own(family: str) -> None:
    processor = RECIPES[family].processor(tokenizer_of(RECIPES[family]))
    encoder = PromptEncoder(processor, end_token_ids=(2,), max_context=2048)
    kept, strength = (float(table[500]) for table in schedule())
    for number in (3, 5):

        def tiles(seed: int | None, number: int = number) -> torch.Tensor:
            view = ViewSpec() if seed is None else ViewSpec("diffusion", {"noise_steps": 500}, seed)
            pixels = encoder.encode_prompt(drawn(number), "What?", view).vision["pixel_values"]
            return pixels.reshape(-1, *pixels.shape[-3:])

        clean, noised, other = tiles(None), tiles(7), tiles(8)
        assert len(clean) > 1 and torch.equal(noised, tiles(7)) and torch.equal(clean, tiles(None))
        noise = noised - kept * clean
        for tile, from_other in zip(noise, other - kept * clean, strict=True):
            assert bool((tile != 0).all()) and not torch.equal(tile, from_other)
        full = noise[1:] if family.startswith("llava") else noise  # LLaVA's overview shows its tiles' noise, averaged
        assert torch.allclose(full.std(dim=(1, 2, 3)), torch.tensor(strength), rtol=0.05)
        alike = torch.corrcoef(full.flatten(1)).fill_diagonal_(0)
        assert float(alike.abs().max()) < 0.05, "every tile has noise of its own"
