"""Loading refuses in sentences what it cannot load, and says in which precision and with which limits it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parallax.models import adapter_config
from parallax.models.loading import precision_for
from tests.faults import Injected
from tests.models import checkpoints as checkpoint_files
from tests.models.examples import Picture, prompts_and_responses, ragged
from tests.typed import load_policy


@pytest.fixture
def adapter(make_policy: Any, tmp_path: Path) -> Path:
    make_policy("llava", learned=True).save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(str(file))), str(file))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: dict(list(state.items())[1:]), "1 missing keys"),
        (lambda state: {**state, "base_model.model.other.lora_A.weight": torch.zeros(4, 32)}, "1 unexpected keys"),
        (
            lambda state: {k.replace("language_model.", ""): v for k, v in state.items()},
            "missing keys .* unexpected keys",
        ),
        (lambda state: {k: v[:2] if "lora_A" in k else v for k, v in state.items()}, "keys of another shape"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(
    adapter: Path, change: Any, complaint: str, make_policy: Any, injected: Injected
) -> None:
    rewrite(adapter, change)
    with pytest.raises(ValueError, match=complaint):
        make_policy("llava", adapter=adapter)
    injected("adapter that does not fit (names, shapes, pickle, another model)", told=1, says="refused before use")


def test_an_adapter_of_another_model_is_an_error(adapter: Path, make_policy: Any, injected: Injected) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        make_policy("llava_next", adapter=adapter, model={"path": str(make_bigger(adapter.parent))})
    injected("adapter that does not fit (names, shapes, pickle, another model)", told=1, says="refused before use")


def make_bigger(folder: Path) -> Path:
    """A LLaVA with three layers."""
    original = checkpoint_files._text
    checkpoint_files._text = lambda *args: {**original(*args), "num_hidden_layers": 3}
    try:
        return checkpoint_files.write_checkpoint("llava", folder / "bigger")
    finally:
        checkpoint_files._text = original


def test_pickled_adapters_are_not_read(adapter: Path, make_policy: Any, injected: Injected) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match="only safetensors"):
        make_policy("llava", adapter=adapter)
    injected("adapter that does not fit (names, shapes, pickle, another model)", told=1, says="refused before use")


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "7",
        '{"peft_type": "NOTHING"}',
        '{"peft_type": ["LORA"]}',
        '{"peft_type": "LORA", "r": "many"}',
        "{",
        "[" * 5000,
    ],
)
def test_a_broken_adapter_configuration_is_named_in_a_sentence(content: str, adapter: Path, make_policy: Any) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match="adapter") as caught:
        make_policy("llava", adapter=adapter)
    assert len(str(caught.value)) < 800


BEYOND_LORA: dict[str, tuple[dict[str, Any], str]] = {
    **{kind: ({"peft_type": kind}, "only LoRA adapters") for kind in ("IA3", "VERA", "LOHA", "LN_TUNING", "PROMPT_TUNING")},
    **{
        f"starts from {start}": ({"init_lora_weights": start}, "changes? the base model's weights")
        for start in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "mystery", 7)
    },
    **{
        name: ({name: value}, f"sets {name}")
        for name, value in {
            "layer_replication": [[0, 1], [0, 1]], "alora_invocation_tokens": [1], "use_qalora": True,
            "megatron_config": {"a": 1},
        }.items()
    },
    "biases of the base": ({"bias": "all"}, "the base's own weights"),
    **{f"rank {rank!r}": ({"r": rank}, "a rank of it") for rank in (0, -3, 10**9, "8", True, 1.5)},
    "rank of one layer": ({"rank_pattern": {"q_proj": 10**9}}, "a rank of it"),
    **{f"alpha {alpha!r}": ({"lora_alpha": alpha}, "an alpha of it") for alpha in (float("nan"), float("inf"), "x", None)},
    "alpha of one layer": ({"alpha_pattern": {"q_proj": "x"}}, "an alpha of it"),
    "pattern that is a list": ({"rank_pattern": [1]}, "no mapping"),
    "expression that is broken": ({"alpha_pattern": {"(((": 4}}, "cannot be read"),
    "expression that never ends": ({"alpha_pattern": {"(.*)*(.*)*(.*)*x": 4}}, "takes too long"),
}  # fmt: skip


@pytest.mark.parametrize("what", BEYOND_LORA)
def test_an_adapter_that_is_more_than_lora_is_refused_in_words(
    what: str, adapter: Path, make_policy: Any, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    """peft builds them of the same file; what they do is in no key, stays when the adapter is off, or never ends."""
    monkeypatch.setattr(adapter_config, "SECONDS", 0.5)
    change, complaint = BEYOND_LORA[what]
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=complaint):
        make_policy("llava", adapter=adapter)
    injected("attack: adapter configuration that asks for more than LoRA", told=1, says="refused before use")


def test_what_says_nothing_in_an_adapters_configuration_is_read(adapter: Path, make_policy: Any) -> None:
    change = {
        "init_lora_weights": "gaussian", "base_model_name_or_path": "elsewhere", "auto_mapping": {"base_model_class": "os"},
        "bias": "lora_only", "peft_version": "99", "unsloth_fixed": True, "lora_dropout": 0.5,
    }  # fmt: skip
    before = make_policy("llava", adapter=adapter).fingerprint()
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert make_policy("llava", adapter=adapter).fingerprint() == before


def test_a_missing_adapter_and_an_adapter_for_full_tuning_are_errors(adapter: Path, make_policy: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no adapter folder"):
        make_policy("llava", adapter=adapter / "nowhere")
    with pytest.raises(ValueError, match="lora=none"):
        make_policy("llava", lora={"enabled": False}, adapter=adapter)


def test_a_path_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder here"):
        load_policy({"path": "assets/nothing_here"}, {"r": 4})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="hf download nobody/no-such-model"):
        load_policy({"path": "nobody/no-such-model"}, {"r": 4})


def without(word: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if word not in name}


def shortened(word: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:-1].clone() if word in name else value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without, r"1 weights are missing \(.*layers\.1\.mlp\.up_proj"),
        (shortened, r"1 have another shape \(.*layers\.1\.mlp\.up_proj.* instead of "),
    ],
)
def test_a_base_with_gaps_or_other_shapes_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, change: Any, complaint: str, injected: Injected
) -> None:
    shutil.copytree(checkpoints["llava"], tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file(change("layers.1.mlp.up_proj", load_file(str(file))), str(file), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=complaint):
        load_policy({"path": str(tmp_path / "model")}, {"r": 4})
    injected(
        "base model whose weights do not fit its configuration",
        told=1,
        says="refused before use, with names and shapes",
    )


def test_a_checkpoint_without_safetensors_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints["llava"], tmp_path / "model")
    weights = load_file(str(tmp_path / "model" / "model.safetensors"))
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_policy({"path": str(tmp_path / "model")}, {"r": 4})


def test_precision_is_per_device_unless_named(make_policy: Any) -> None:
    assert precision_for("auto", "cpu") == torch.float32
    assert precision_for("float16", "cpu") == torch.float16
    with pytest.raises(ValueError, match=r"model\.dtype=int8"):
        precision_for("int8", "cpu")
    policy = make_policy("llava", model={"dtype": "bfloat16"})
    assert policy.precision == "bfloat16" and make_policy("llava").precision == "float32"
    assert all(
        value.dtype == torch.float32 for _, value in policy.trainable_parameters()
    )  # small steps must not round away


def test_half_precision_generates_scores_and_learns(family: str, make_policy: Any) -> None:

    policy = make_policy(family, model={"dtype": "bfloat16"})
    assert len(policy.generate(ragged(3))) == 3
    total = policy.score(policy.encoder.collate(prompts_and_responses(policy, 1))).total
    assert total.dtype == torch.float32
    total.sum().backward()
    full = make_policy(family)
    expected = full.score(full.encoder.collate(prompts_and_responses(full, 1))).total
    assert torch.allclose(total, expected, rtol=0.05)


def test_pixels_can_be_limited_where_the_processor_allows_it(make_policy: Any) -> None:
    wide = Picture(1, (200, 100)).load()

    def tokens(family: str, **limits: int) -> int:
        return len(make_policy(family, model=limits).encoder.encode_prompt(wide, "What?").input_ids)

    assert tokens("qwen2_5_vl", max_pixels=24 * 24) < tokens("qwen2_5_vl")
    assert tokens("qwen2_5_vl", min_pixels=8, max_pixels=100 * 200) > tokens("qwen2_5_vl")
    assert tokens("llava_next", max_pixels=24 * 48) <= tokens("llava_next")
    policy = make_policy("llava_next", model={"max_pixels": 24 * 48})
    assert policy.model.get_base_model().config.image_grid_pinpoints == [[24, 48], [48, 24]]
    with pytest.raises(ValueError, match="leaves no tiling"):
        make_policy("llava_next", model={"max_pixels": 10})
    with pytest.raises(ValueError, match="no such limits"):
        make_policy("llava", model={"max_pixels": 1000})
    with pytest.raises(ValueError, match="above"):
        make_policy("qwen2_5_vl", model={"max_pixels": 100, "min_pixels": 200})
