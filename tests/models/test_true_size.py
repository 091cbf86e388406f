"""The configured models at true size, on the meta device: sizes as published, LoRA on the language model and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from parallax.models.backbone import decoder_name
from parallax.models.lora import add_lora
from parallax.models.true_size import architectures, meta_model
from parallax.settings.groups import Lora
from parallax.settings.stages import resolve_stages
from tests.typed import lora

MODELS = Path(__file__).parents[2] / "conf" / "model"
KINDS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
PUBLISHED = {  # language layers; parameters in billions, all included; widths of hidden, query, key and inner layers
    "llava15_7b": (32, 7.06, (4096, 4096, 4096, 11008)),
    "llava15_13b": (40, 13.35, (5120, 5120, 5120, 13824)),
    "llava16_mistral_7b": (32, 7.57, (4096, 4096, 1024, 14336)),
    "qwen25_vl_7b": (28, 8.29, (3584, 3584, 512, 18944)),
    "qwen25_vl_3b": (36, 3.75, (2048, 2048, 256, 11008)),
    "qwen3_vl_8b": (36, 8.77, (4096, 4096, 1024, 12288)),
    "qwen3_vl_4b": (36, 4.44, (2560, 4096, 1024, 9728)),
    "qwen3_vl_2b": (28, 2.13, (2048, 2048, 1024, 6144)),
    "internvl3_8b": (28, 7.94, (3584, 3584, 512, 18944)),
    "gemma3_4b": (34, 4.30, (2560, 2048, 1024, 10240)),
    "llava_onevision_7b": (28, 8.03, (3584, 3584, 512, 18944)),
    "smolvlm2_2b": (24, 2.25, (2048, 2048, 2048, 8192)),
}


def lora_by_hand(hidden: int, query: int, key: int, inner: int, layers: int, rank: int) -> int:
    """r (in + out) for each of the seven matrices of a layer."""
    ends = [(hidden, query), (hidden, key), (hidden, key), (query, hidden)] + [(hidden, inner)] * 2 + [(inner, hidden)]
    return layers * rank * sum(a + b for a, b in ends)


def test_every_configured_model_is_described() -> None:
    configured = {path.stem for path in MODELS.glob("*.yaml")} - {"hub", "tiny_llava"}
    assert set(architectures()) == configured == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_size_is_the_published_one_and_lora_is_on_the_language_model_only(name: str) -> None:
    layers, billions, sizes = PUBLISHED[name]
    model = meta_model(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.config.model_type == OmegaConf.load(MODELS / f"{name}.yaml").family
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    with torch.device("meta"):
        tuned = add_lora(model, lora(r=1024), seed=0)
    adapted = [module.removesuffix(".lora_A") for module, _ in tuned.named_modules() if module.endswith(".lora_A")]
    assert len(adapted) == 7 * layers
    assert {module.rsplit(".", 1)[-1] for module in adapted} == KINDS
    assert all(module.startswith(f"base_model.model.{decoder_name(model)}.layers.") for module in adapted)
    trained = {n: p.numel() for n, p in tuned.named_parameters() if p.requires_grad}
    assert all(decoder_name(model) in parameter for parameter in trained)
    assert sum(trained.values()) == lora_by_hand(*sizes, layers=layers, rank=1024)


def test_an_architecture_that_is_not_described_is_refused() -> None:
    with pytest.raises(ValueError, match="'llava_9' is not described; there are gemma3_4b"):
        meta_model("llava_9")


STIC = {"stic_llava15_7b": "llava15_7b", "stic_llava16_mistral_7b": "llava16_mistral_7b"}


@pytest.mark.parametrize("experiment", STIC)
def test_stic_at_true_size_has_the_papers_settings_and_one_adapter(experiment: str, compose_config: Any) -> None:
    cfg = compose_config(f"experiment={experiment}")
    assert cfg.model.name == STIC[experiment]
    align, infuse = resolve_stages(cfg)
    assert [(stage["optim"]["lr"], stage["trainer"]["batch_size"]) for stage in (align, infuse)] == [
        (1e-7, 8),
        (2e-5, 32),
    ]
    assert (align["loss"]["beta"], align["loss"]["alpha"]) == (0.1, 1 / 1024)
    assert align["lora"] == infuse["lora"] and (align["lora"]["r"], align["lora"]["alpha"]) == (128, 256)
    assert {stage["trainer"]["max_epochs"] for stage in (align, infuse)} == {1}
    assert align["proposer"]["temperature"] == infuse["infusion"]["temperature"] == 0.2
    assert align["proposer"]["max_new_tokens"] == 1024 and len(align["proposer"]["bad"]) == 8
    assert align["data"]["sample"] == 6000 and infuse["data"]["parts"]["mixed"]["entries"] == 5000
    layers, _, sizes = PUBLISHED[STIC[experiment]]
    with torch.device("meta"):
        tuned = add_lora(meta_model(STIC[experiment]), Lora.of(align["lora"]), seed=0)
    trained = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    assert trained == lora_by_hand(*sizes, layers=layers, rank=128)
