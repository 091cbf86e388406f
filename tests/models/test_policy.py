"""A policy's name, its reference, and what it leaves on disk for plain peft and plain transformers."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from parallax.models.ingredients import files_digest, tensors_digest
from parallax.records import Decoding, ViewSpec
from tests.models.examples import Picture, prompts_and_responses, ragged
from tests.typed import load_policy


def totals(policy: Any) -> torch.Tensor:
    with torch.no_grad():
        return policy.score(policy.encoder.collate(prompts_and_responses(policy, 1))).total


def plain_totals(model: Any, policy: Any) -> torch.Tensor:
    """Scores by a model that is not ours, in float32."""
    rows = []
    with torch.no_grad():
        for prompt, responses in prompts_and_responses(policy, 1):
            row = []
            for response in responses:
                ids = torch.cat([prompt.input_ids, response])[None]
                extra = {n: torch.cat([v, v.new_zeros(len(response))])[None] for n, v in prompt.token_inputs.items()}
                log_probs = model(input_ids=ids, **prompt.vision, **extra).logits[0].log_softmax(-1)
                first = len(prompt.input_ids) - 1
                row.append(sum(log_probs[first + j, token] for j, token in enumerate(response)))
            rows.append(torch.stack(row))
    return torch.stack(rows)


def test_without_its_adapter_the_policy_is_the_base_model(family: str, make_policy: Any) -> None:
    learned, fresh = make_policy(family, learned=True), make_policy(family)
    base = make_policy(family, lora={"enabled": False})
    assert not torch.allclose(totals(learned), totals(base), atol=0.1)
    with learned.reference():
        assert torch.equal(totals(learned), totals(base))
        inside = learned.generate(ragged(4))
    assert torch.equal(totals(fresh), totals(base))
    assert inside == base.generate(ragged(4)) == fresh.generate(ragged(4))
    assert learned.generate(ragged(4)) != inside


def test_the_reference_has_its_own_name_and_may_be_entered_twice(make_policy: Any) -> None:
    for policy in (make_policy("llava", learned=True), make_policy("llava")):
        outside = totals(policy)
        with policy.reference():
            with policy.reference():
                assert policy.fingerprint() == policy.reference_fingerprint()
                answers = policy.generate(ragged(2))
            assert policy.generate(ragged(2)) == answers
            assert torch.equal(totals(policy), totals(make_policy("llava")))
        assert torch.equal(totals(policy), outside)


def test_an_adapter_loads_with_plain_peft_and_comes_back_as_it_was(
    family: str, make_policy: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    policy = make_policy(family, learned=True)
    policy.save_adapter(tmp_path)
    base = AutoModelForImageTextToText.from_pretrained(str(checkpoints[family]))
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert torch.allclose(plain_totals(plain, policy), totals(policy), atol=1e-4)
    again = make_policy(family, adapter=tmp_path)
    assert torch.equal(totals(again), totals(policy))
    assert again.fingerprint() == policy.fingerprint()
    assert len(again.trainable_parameters()) == len(policy.trainable_parameters())


@pytest.mark.parametrize("lora", [{"r": 4}, {"r": 4, "dora": True, "rslora": True}])
def test_the_merged_model_loads_with_plain_transformers(
    family: str, lora: dict[str, Any], make_policy: Any, tmp_path: Path
) -> None:
    policy = make_policy(family, lora=lora, learned=True)
    before = totals(policy)
    policy.save_merged(tmp_path)
    assert torch.equal(totals(policy), before)  # the live model is as it was
    loaded: Any = AutoModelForImageTextToText.from_pretrained(str(tmp_path), output_loading_info=True)
    plain, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.allclose(plain_totals(plain.eval(), policy), before, atol=1e-3)
    processor = AutoProcessor.from_pretrained(str(tmp_path))
    assert processor.chat_template == policy.encoder.processor.chat_template
    merged = load_policy({"path": str(tmp_path)}, {"r": 4}, digest_memory=tmp_path / "memory.json")
    assert merged.generate(ragged(3)) == policy.generate(ragged(3))


@pytest.mark.parametrize("base_has_it", [True, False])
def test_the_merged_model_has_the_names_that_others_know(
    base_has_it: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """LLaVA's tower has a level `vision_model` on the hub, and vLLM reads no other; transformers of today drops it in memory."""
    base = tmp_path / "base"
    shutil.copytree(checkpoints["llava"], base)
    plain = load_file(base / "model.safetensors")
    hub = {
        re.sub(r"^vision_tower\.(vision_model\.)?", "vision_tower.vision_model.", name): v for name, v in plain.items()
    }
    assert hub.keys() != plain.keys()
    if base_has_it:
        save_file(hub, base / "model.safetensors", {"format": "pt"})
    policy = load_policy({"path": str(base)}, {"r": 4}, digest_memory=tmp_path / "memory.json")
    policy.save_merged(tmp_path / "merged")
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert merged.keys() == hub.keys()
    assert all(torch.equal(merged[name], value) for name, value in hub.items())
    again = load_policy({"path": str(tmp_path / "merged")}, {"r": 4}, digest_memory=tmp_path / "memory.json")
    assert torch.equal(totals(again), totals(policy))


def test_full_fine_tuning_trains_the_language_model_and_keeps_a_reference(family: str, make_policy: Any) -> None:
    policy = make_policy(family, lora={"enabled": False})
    learning = [name for name, _ in policy.trainable_parameters()]
    assert all(name.startswith(("model.language_model.", "lm_head.")) for name in learning)
    assert any("embed_tokens" in name for name in learning) and "lm_head.weight" in learning
    before, name = totals(policy), policy.fingerprint()
    policy.keep_reference()
    batch = policy.encoder.collate(prompts_and_responses(policy, 1))
    optimiser = torch.optim.SGD([value for _, value in policy.trainable_parameters()], lr=1e-3)
    (-policy.score(batch).total[:, 0].sum()).backward()
    optimiser.step()
    policy.touched()
    assert (totals(policy)[:, 0] > before[:, 0]).any() and policy.fingerprint() != name
    with policy.reference():
        assert torch.equal(totals(policy), before)
    assert policy.reference_fingerprint() == name


def test_full_fine_tuning_without_a_kept_reference_refuses_one(make_policy: Any) -> None:
    policy = make_policy("llava", lora={"enabled": False})
    policy.touched()
    with pytest.raises(ValueError, match="keep_reference"), policy.reference():
        pass


def test_fully_tuned_weights_travel_as_a_folder(make_policy: Any, tmp_path: Path) -> None:
    policy = make_policy("llava", lora={"enabled": False})
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(1.5)
    policy.touched()
    policy.save_adapter(tmp_path)
    again = make_policy("llava", lora={"enabled": False}, adapter=tmp_path)
    assert torch.equal(totals(again), totals(policy))


def test_a_trained_projector_is_saved_merged_and_absent_from_the_reference(make_policy: Any, tmp_path: Path) -> None:
    policy = make_policy("llava", model={"train_projector": True}, learned=True)
    base = totals(make_policy("llava"))
    learning = [name for name, _ in policy.trainable_parameters()]
    assert any("multi_modal_projector" in name for name in learning) and not any("vision" in name for name in learning)
    with torch.no_grad():
        for name, value in policy.trainable_parameters():
            if "multi_modal_projector" in name:
                value.add_(0.05)
    policy.touched()
    with policy.reference():
        assert torch.equal(totals(policy), base)
    policy.save_adapter(tmp_path / "adapter")
    assert torch.equal(totals(make_policy("llava", adapter=tmp_path / "adapter")), totals(policy))
    policy.save_merged(tmp_path / "merged")
    plain = AutoModelForImageTextToText.from_pretrained(str(tmp_path / "merged")).eval()
    assert torch.allclose(plain_totals(plain, policy), totals(policy), atol=1e-3)


# -- names -------------------------------------------------------------------------------------------------------------


def test_an_adapter_that_learned_nothing_does_not_change_the_name(make_policy: Any) -> None:
    names = {
        make_policy("llava", lora=lora).fingerprint() for lora in ({"r": 4}, {"r": 8, "dora": True}, {"enabled": False})
    }
    assert len(names) == 1


def test_every_change_of_weights_changes_the_name_and_back(make_policy: Any) -> None:
    policy = make_policy("llava", learned=True)
    name = policy.fingerprint()
    value = policy.trainable_parameters()[3][1]
    with torch.no_grad():
        value[0, 0] += 1e-3
    assert policy.fingerprint() == name  # until we are told
    policy.touched()
    changed = policy.fingerprint()
    assert changed != name != make_policy("llava").fingerprint()
    assert policy.reference_fingerprint() == make_policy("llava").fingerprint()


def test_every_ingredient_changes_the_key_of_a_generation(make_policy: Any) -> None:
    policy = make_policy("llava")
    request = ragged(1)[0]
    others = [
        replace(request, image=Picture(99)),
        replace(request, prompt="Something else?"),
        replace(request, view=ViewSpec("diffusion", {"noise_steps": 500}, 1)),
        replace(request, view=ViewSpec("diffusion", {"noise_steps": 501}, 1)),
        replace(request, view=ViewSpec("diffusion", {"noise_steps": 500}, 2)),
        replace(request, decoding=Decoding(5)),
        replace(request, decoding=Decoding(4, 0.7, 1.0, 1)),
        replace(request, decoding=Decoding(4, 0.7, 0.9, 1)),
        replace(request, decoding=Decoding(4, 0.7, 1.0, 2)),
    ]
    keys = {policy.spec(other).key() for other in (request, *others)}
    keys |= {
        make_policy("llava", learned=True).spec(request).key(),
        make_policy("llava", model={"dtype": "bfloat16"}).spec(request).key(),
        make_policy("llava", model={"image_pad": True}).spec(request).key(),
        make_policy("llava_next").spec(request).key(),
    }
    assert len(keys) == 1 + len(others) + 4
    assert policy.spec(replace(request, sample_id="other")).key() == policy.spec(request).key()
    retold = make_policy("llava")
    retold.encoder.processor.chat_template += " "
    assert retold.spec(request).key() not in keys


def test_weight_files_are_named_by_content_and_read_once(tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(b"weights")
    one = files_digest([tmp_path / "a" / "model.safetensors"], memory)
    assert files_digest([tmp_path / "b" / "model.safetensors"], memory) == one
    memory.write_text(memory.read_text().replace(memory.read_text().split('"')[3], "0" * 64))
    assert files_digest([tmp_path / "a" / "model.safetensors"], memory) != one  # it trusts its memory
    (tmp_path / "a" / "model.safetensors").write_bytes(b"other weights")
    assert files_digest([tmp_path / "a" / "model.safetensors"], memory) != one
    memory.write_text("not json")
    assert files_digest([tmp_path / "b" / "model.safetensors"], memory) == one


def test_tensors_are_named_by_name_type_shape_and_value() -> None:
    value = torch.arange(6.0)
    names = {
        tensors_digest(tensors)
        for tensors in (
            {"a": value},
            {"b": value},
            {"a": value.reshape(2, 3)},
            {"a": value.to(torch.bfloat16)},
            {"a": value + 1},
        )
    }
    assert len(names) == 5
