"""Adapters from outside load as plain peft loads them: old names, ranks and scales of their own for some layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from parallax.models.adapter import CONFIG, WEIGHTS, adapter_digest
from parallax.models.original_llava import convert
from parallax.models.sharding.base import Whole
from tests.models.examples import prompts_and_responses
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy

OLD = {  # today's place of the language model and of the projector -> that of transformers before 4.52
    "llava": (("model.language_model.", "language_model.model."), ("model.multi_modal_projector.", "multi_modal_projector.")),
    "qwen2_5_vl": (("model.language_model.", "model."),),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_tiny_checkpoint(name, tmp_path_factory.mktemp(name)) for name in OLD}


def adapter_in(folder: Path, base: Path, **settings: Any) -> Path:
    """A plain peft adapter with weights that do something."""
    torch.manual_seed(0)
    network = AutoModelForImageTextToText.from_pretrained(base)
    wrapped = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.1)
    wrapped.save_pretrained(str(folder))
    return folder


def with_old_names(folder: Path, family: str) -> Path:
    weights = load_file(str(folder / WEIGHTS))
    renamed = {}
    for key, value in weights.items():
        name = key.removeprefix("base_model.model.")
        new = next((old + name.removeprefix(now) for now, old in OLD[family] if name.startswith(now)), name)
        renamed[f"base_model.model.{new}"] = value
    assert renamed.keys() != weights.keys()
    save_file(renamed, str(folder / WEIGHTS), metadata={"format": "pt"})
    return folder


def scores(policy: Any) -> torch.Tensor:
    with torch.no_grad():
        return policy.score(batch_of(policy)).total


def batch_of(policy: Any) -> Any:
    return policy.encoder.collate(prompts_and_responses(policy, 1))


LANGUAGE = r".*language_model.*\.(q_proj|v_proj)"


@pytest.mark.parametrize("family", OLD)
def test_old_names_load_as_plain_peft_loads_the_new_ones(family: str, bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "adapter", bases[family], target_modules=LANGUAGE)
    model = {"path": str(bases[family])}
    expected = load_policy(model, None)
    without = scores(expected)
    expected.model = PeftModel.from_pretrained(expected.model, str(adapter))
    with_old_names(adapter, family)
    settings = json.loads((adapter / CONFIG).read_text())
    settings["target_modules"] = r"language_model\.model\..*\.(q_proj|v_proj)"  # matches nothing today
    (adapter / CONFIG).write_text(json.dumps(settings))
    found = scores(load_policy(model, {"r": 1}, adapter=adapter))
    assert torch.allclose(found, scores(expected), rtol=1e-6, atol=1e-4)
    assert (found - without).abs().max() > 1e-2


@pytest.mark.parametrize("pickled", [False, True])
def test_old_names_are_converted_for_plain_peft(bases: dict[str, Path], tmp_path: Path, pickled: bool) -> None:
    adapter = adapter_in(
        tmp_path / "adapter", bases["llava"], target_modules=LANGUAGE, modules_to_save=["multi_modal_projector"],
        rank_pattern={"model.language_model.layers.0.self_attn.q_proj": 2},
    )  # fmt: skip
    base = AutoModelForImageTextToText.from_pretrained(bases["llava"])
    new = load_file(str(adapter / WEIGHTS))
    old = with_old_names(adapter, "llava")
    if pickled:
        torch.save(load_file(str(old / WEIGHTS)), old / "adapter_model.bin")
        (old / WEIGHTS).unlink()
    made = convert(old, base, "base")
    assert made.state.keys() == new.keys() and all(torch.equal(made.state[key], new[key]) for key in new)
    folder = tmp_path / "converted"
    folder.mkdir()
    save_file(made.state, str(folder / WEIGHTS), metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(made.config))
    loaded = PeftModel.from_pretrained(base, str(folder))
    first = loaded.get_submodule("base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default")
    assert first.out_features == 2
    policy = load_policy({"path": str(bases["llava"])}, {"r": 1}, adapter=folder if pickled else old)
    plain = load_policy({"path": str(bases["llava"])}, None)
    plain.model = loaded
    assert torch.allclose(scores(policy), scores(plain), rtol=1e-6, atol=1e-4)


def test_ranks_and_scales_of_single_layers_count_as_in_plain_peft_and_in_the_name(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base, model = bases["llava"], {"path": str(bases["llava"])}
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 32}}
    adapter = adapter_in(tmp_path / "adapter", base, target_modules=LANGUAGE, **patterns)
    policy, plain = load_policy(model, {"r": 1}, adapter=adapter), load_policy(model, None)
    plain.model = PeftModel.from_pretrained(plain.model, str(adapter))
    assert torch.allclose(scores(policy), scores(plain), rtol=1e-6, atol=1e-4)
    name = adapter_digest(policy.model, Whole(policy.model))
    settings = json.loads((adapter / CONFIG).read_text())
    settings["alpha_pattern"] = {"layers.0.self_attn.v_proj": 16}
    (adapter / CONFIG).write_text(json.dumps(settings))
    other = load_policy(model, {"r": 1}, adapter=adapter)
    assert adapter_digest(other.model, Whole(other.model)) != name
    assert not torch.equal(scores(other), scores(policy))


def test_an_adapter_that_brings_a_projector_turns_the_feature_cache_off(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = adapter_in(
        tmp_path / "a", bases["llava"], target_modules=LANGUAGE, modules_to_save=["multi_modal_projector"]
    )
    model = {"path": str(bases["llava"]), "feature_cache": "auto"}
    assert load_policy(model, {"r": 1}).features is not None
    policy = load_policy(model, {"r": 1}, adapter=adapter)
    assert policy.features is None
    with policy.reference():
        reference = scores(policy)
    assert torch.allclose(reference, scores(load_policy(model, None)), rtol=1e-6, atol=1e-4)
    with pytest.raises(ValueError, match="a tower or projector that learns changes them"):
        load_policy({**model, "feature_cache": "memory"}, {"r": 1}, adapter=adapter)


def test_lora_on_the_vision_tower_is_trained_saved_and_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    model = {"path": str(bases["llava"]), "feature_cache": "auto"}
    policy = load_policy(model, {"r": 2, "vision": True})
    names = [name for name, _ in policy.trainable_parameters()]
    assert policy.features is None
    assert any("vision_tower" in name for name in names) and any("language_model" in name for name in names)
    assert not any("projector" in name or "lm_head" in name for name in names)
    before = scores(policy)
    policy.score(batch_of(policy)).total.sum().backward()
    with torch.no_grad():
        for _, value in policy.trainable_parameters():
            value.add_(torch.randn_like(value) * 0.1)
    policy.touched()
    moved = scores(policy)
    assert (moved - before).abs().max() > 1e-3
    with policy.reference():
        assert torch.allclose(scores(policy), before, rtol=1e-6, atol=1e-4)
    policy.save_adapter(tmp_path / "adapter")
    policy.save_merged(tmp_path / "merged")
    again = load_policy(model, {"r": 1}, adapter=tmp_path / "adapter")
    assert torch.allclose(scores(again), moved, rtol=1e-6, atol=1e-4)
    merged = load_policy({"path": str(tmp_path / "merged")}, None)
    assert torch.allclose(scores(merged), moved, rtol=1e-6, atol=1e-4)
    with pytest.raises(ValueError, match=r"lora\.vision=true"):
        load_policy(model, {"r": 2, "vision": True}, mesh=object())
