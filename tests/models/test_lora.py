"""LoRA sits on every linear layer of the language model and nowhere else, in each family and at true size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parallax.models.lora import add_lora, language_targets, lora_config
from tests.models.examples import FAMILIES, prompts_and_responses
from tests.typed import lora

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def adapted(model: Any) -> list[str]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_language_linear_and_nothing_else_is_adapted(family: str, make_policy: Any) -> None:
    policy = make_policy(family)
    names = adapted(policy.model.get_base_model())
    assert len(names) == 2 * 7
    assert {name.rsplit(".", 1)[-1] for name in names} == SEVEN
    assert all(name.startswith("model.language_model.layers.") for name in names)
    learning = [name for name, _ in policy.trainable_parameters()]
    assert len(learning) == 2 * 7 * 2 and all("lora_" in name and "language_model" in name for name in learning)


def test_a_router_that_gives_more_than_a_product_gets_no_lora() -> None:
    from transformers import AutoModelForImageTextToText

    from tests.toys.shrunken_configs import shrunken_config

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(shrunken_config("llama4"))
    targets = language_targets(model)
    assert any(name.endswith("feed_forward.router") for name, _ in model.named_modules())
    assert "router" not in targets and "q_proj" in targets


def _clip() -> dict[str, Any]:
    size = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **size}


def _llama(
    hidden: int, inner: int, layers: int, heads: int, kind: str = "llama", kv: int | None = None
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv or heads,
        "vocab_size": 32064,
    }


def _true_size(name: str) -> Any:
    from transformers import LlavaConfig, LlavaNextConfig, Qwen2_5_VLConfig

    if name == "llava15_7b":
        return LlavaConfig(vision_config=_clip(), text_config=_llama(4096, 11008, 32, 32))
    if name == "llava15_13b":
        return LlavaConfig(vision_config=_clip(), text_config=_llama(5120, 13824, 40, 40))
    if name == "llava16_mistral_7b":
        return LlavaNextConfig(vision_config=_clip(), text_config=_llama(4096, 14336, 32, 32, "mistral", 8))
    text = _llama(3584, 18944, 28, 28, "qwen2_5_vl_text", 4) | {"vocab_size": 152064}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


@pytest.mark.parametrize(
    ("name", "layers", "billions"),
    [
        ("llava15_7b", 32, 7.06),
        ("llava15_13b", 40, 13.35),
        ("llava16_mistral_7b", 32, 7.57),
        ("qwen25_vl_7b", 28, 8.29),
    ],
)
def test_at_true_size_every_layer_is_adapted_and_no_vision(name: str, layers: int, billions: float) -> None:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(_true_size(name))
        count = sum(value.numel() for value in model.parameters())
        model.requires_grad_(False)
        wrapped = add_lora(model, lora(r=128), seed=0)
    assert abs(count / 1e9 - billions) < 0.02
    names = adapted(model)
    assert len(names) == 7 * layers
    assert not [n for n in names if "vision" in n or "visual" in n or "projector" in n or "lm_head" in n]
    assert {n.rsplit(".", 1)[-1] for n in names} == SEVEN
    assert len([n for n, value in wrapped.named_parameters() if value.requires_grad]) == 2 * 7 * layers


def test_alpha_is_twice_the_rank_unless_given(make_policy: Any) -> None:
    base = make_policy("llava", lora={"enabled": False}).model
    assert lora_config(base, lora(r=8)).lora_alpha == 16
    assert lora_config(base, lora(r=8, alpha=3)).lora_alpha == 3
    config = lora_config(base, lora(r=8, rslora=True, dora=True, dropout=0.1))
    assert (config.use_rslora, config.use_dora, config.lora_dropout) == (True, True, 0.1)


def test_initial_weights_depend_on_the_seed_alone(make_policy: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed * 7 + 1)
        before = torch.random.get_rng_state()
        policy = make_policy("llava", seed=seed % 2)
        assert torch.equal(before, torch.random.get_rng_state())
        return torch.cat([value.flatten() for _, value in policy.trainable_parameters()])

    assert torch.equal(weights(1), weights(3))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r".*(q|v)_proj", "all_that_is_linear"])
def test_targets_outside_the_language_model_or_nowhere_are_refused(targets: Any, make_policy: Any) -> None:
    base = make_policy("llava", lora={"enabled": False}).model
    with pytest.raises(ValueError, match=r"lora\.targets"):
        lora_config(base, lora(r=4, targets=targets))


def test_own_targets_within_the_language_model_are_taken(make_policy: Any) -> None:
    policy = make_policy("llava", lora={"r": 4, "targets": r"model\.language_model\..*\.(q|v)_proj"})
    assert len(adapted(policy.model.get_base_model())) == 4


def test_targets_are_one_anchored_expression(make_policy: Any) -> None:
    assert language_targets(make_policy("llava", lora={"enabled": False}).model).startswith(r"model\.language_model\.")


@pytest.mark.parametrize("option", ["rslora", "dora"])
def test_variants_start_as_the_base_model_and_learn(option: str, make_policy: Any) -> None:

    policy = make_policy("llava", lora={"r": 4, option: True})
    batch = policy.encoder.collate(prompts_and_responses(policy, 1))
    with policy.reference(), torch.no_grad():
        reference = policy.score(batch).total
    scored = policy.score(batch).total
    assert torch.allclose(scored, reference, atol=1e-4)
    scored.sum().backward()
    assert any(value.grad.abs().sum() > 0 for _, value in policy.trainable_parameters())
