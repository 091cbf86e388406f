"""Adapters of the original LLaVA code come over with every key accounted for, and do the same under plain peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parallax.models.older_adapter import expression_of
from parallax.models.original_llava import convert
from parallax.models.true_size import meta_model
from tests.typed import load_policy

ASSETS = Path(__file__).parents[2] / "assets" / "tiny_llava"
HF, ORIGINAL = "base_model.model.model.language_model.", "base_model.model.model."
SETTINGS = {  # as peft 0.4 wrote it
    "auto_mapping": None, "base_model_name_or_path": "liuhaotian/llava-v1.5-7b", "bias": "none", "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None, "lora_alpha": 8,
    "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA", "r": 4, "revision": None,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "task_type": "CAUSAL_LM",
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def policy() -> Any:
    """A policy whose adapter does something and whose projector has moved."""
    model = {"name": "tiny_llava", "path": str(ASSETS), "dtype": "float32", "train_projector": True}
    made = load_policy(model, {"r": 4, "alpha": 8, "enabled": True})
    torch.manual_seed(0)
    with torch.no_grad():
        for _, value in made.trainable_parameters():
            value += 0.02 * torch.randn_like(value)
    return made


@pytest.fixture(scope="module")
def weights(policy: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The policy's adapter as peft writes it."""
    folder = tmp_path_factory.mktemp("ours")
    policy.save_adapter(folder)
    return load_file(str(folder / "adapter_model.safetensors"))


@pytest.fixture
def original(weights: dict[str, torch.Tensor], tmp_path: Path) -> Write:
    """Write the adapter as the original code does: other names, pickles, the projector in a file of its own."""

    def write(
        more: dict[str, torch.Tensor] | None = None,
        suffix: str = ".bin",
        state: dict[str, torch.Tensor] = weights,
        **settings: Any,
    ) -> Path:
        folder = tmp_path / "llava-v1.5-7b-lora"
        folder.mkdir()
        lora, others = {}, {}
        for key, value in state.items():
            if "lora_" in key:
                lora[key.replace(HF, ORIGINAL)] = value
            else:
                layer = {"linear_1": "0", "linear_2": "2"}
                *_, name, kind = key.split(".")
                others[f"{ORIGINAL}mm_projector.{layer[name]}.{kind}"] = value
        save = torch.save if suffix == ".bin" else lambda state, file: save_file(state, str(file))
        save(lora | (more or {}), folder / f"adapter_model{suffix}")
        torch.save(others, folder / "non_lora_trainables.bin")
        (folder / "adapter_config.json").write_text(json.dumps({**SETTINGS, **settings}))
        return folder

    return write


@pytest.fixture(scope="module")
def network() -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(ASSETS))


def vision(side: str, value: float, layer: int = 0, rank: int = 4) -> tuple[str, torch.Tensor]:
    from transformers import AutoConfig

    width = AutoConfig.from_pretrained(ASSETS).vision_config.hidden_size
    shape = (rank, width) if side == "A" else (width, rank)
    name = (
        f"{ORIGINAL}vision_tower.vision_tower.vision_model.encoder.layers.{layer}.self_attn.q_proj.lora_{side}.weight"
    )
    return name, torch.full(shape, value)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_converted_adapter_does_the_same_under_plain_peft(
    policy: Any, weights: dict[str, torch.Tensor], original: Write, network: Any, tmp_path: Path, suffix: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    made = convert(original(suffix=suffix), network, str(ASSETS))
    assert made.state.keys() == weights.keys() and all(made.state[key].equal(weights[key]) for key in weights)
    assert sum(made.counts.values()) == len(weights)
    out = tmp_path / "out"
    out.mkdir()
    save_file(made.state, str(out / "adapter_model.safetensors"))
    (out / "adapter_config.json").write_text(json.dumps(made.config))
    base = AutoModelForImageTextToText.from_pretrained(ASSETS, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(out)).eval()
    inputs = _inputs(policy)
    with torch.no_grad():
        ours = policy.model(**inputs).logits
        assert torch.allclose(tuned(**inputs).logits, ours, atol=1e-5)
        plain = AutoModelForImageTextToText.from_pretrained(ASSETS, dtype=torch.float32)
        assert not torch.allclose(plain(**inputs).logits, ours, atol=1e-3)
    again = load_policy(
        {"path": str(ASSETS), "dtype": "float32", "train_projector": True}, {"r": 4, "enabled": True}, adapter=out
    )
    assert {name: value.shape for name, value in again.trainable_parameters()} == {
        name: value.shape for name, value in policy.trainable_parameters()
    }


@pytest.mark.parametrize(
    ("settings", "of_original"),
    [
        ({"r": 6, "lora_alpha": 5}, {}),
        (
            {"rank_pattern": {"layers.1.self_attn.q_proj": 2, r"layers\.0\.mlp\.(up|down)_proj": 7},
             "alpha_pattern": {"model.language_model.layers.0.self_attn.v_proj": 48}},
            {"alpha_pattern": {"model.layers.0.self_attn.v_proj": 48}},
        ),
        ({"use_rslora": True}, {}),
        ({"use_dora": True}, {}),
    ],
    ids=["rank", "patterns", "rslora", "dora"],
)  # fmt: skip
def test_other_ranks_scales_and_kinds_of_lora_are_those_of_plain_peft(
    policy: Any, original: Write, network: Any, tmp_path: Path, settings: dict[str, Any], of_original: dict[str, Any]
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForImageTextToText

    kept = LoraConfig(
        **{"r": 4, "lora_alpha": 8, **settings}, target_modules=r".*language_model.*_proj",
        modules_to_save=["multi_modal_projector"],
    )  # fmt: skip
    torch.manual_seed(1)
    tuned: Any = get_peft_model(AutoModelForImageTextToText.from_pretrained(ASSETS, dtype=torch.float32), kept)
    with torch.no_grad():
        for value in tuned.parameters():
            if value.requires_grad:
                value += 0.02 * torch.randn_like(value)
    tuned.save_pretrained(str(tmp_path / "peft"))
    state = load_file(str(tmp_path / "peft" / "adapter_model.safetensors"))
    written = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    folder = original(state=state, **{name: written[name] for name in settings} | {"r": kept.r} | of_original)

    with pytest.raises(ValueError, match="task=convert_adapter"):
        load_policy({"path": str(ASSETS)}, {"r": 2}, adapter=folder)
    made, out = convert(folder, network, str(ASSETS)), tmp_path / "out"
    out.mkdir()
    save_file(made.state, str(out / "adapter_model.safetensors"))
    (out / "adapter_config.json").write_text(json.dumps(made.config))
    ours = load_policy({"path": str(ASSETS), "dtype": "float32"}, {"r": 2}, adapter=out)
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(ASSETS), str(out)).eval()
    inputs = _inputs(policy)
    with torch.no_grad():
        expected = tuned.eval()(**inputs).logits
        assert torch.allclose(ours.model(**inputs).logits, expected, atol=1e-5)
        assert torch.allclose(plain(**inputs).logits, expected, atol=1e-5)


def test_lora_on_the_vision_tower_is_kept_where_it_does_something(original: Write, network: Any) -> None:
    idle = dict([vision("A", 1.0), vision("B", 0.0)])
    busy = dict([vision("A", 1.0, 1), vision("B", 0.5, 1)])
    made = convert(original({**idle, **busy}), network, "base")
    assert made.counts["LoRA weights of the vision tower that do nothing, left out"] == 2
    assert made.counts["LoRA weights of the vision tower"] == 2
    assert "base_model.model.model.vision_tower.encoder.layers.1.self_attn.q_proj.lora_B.weight" in made.state
    import re

    wrapped = [name for name, _ in network.named_modules() if re.fullmatch(made.config["target_modules"], name)]
    assert sorted(wrapped) == sorted(
        {key.removeprefix("base_model.model.").split(".lora_")[0] for key in made.state if "lora_" in key}
    )


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        (
            {f"{ORIGINAL}image_newline": torch.zeros(3)},
            {},
            "1 keys of .*llava-v1.5-7b-lora have no place .*'.*image_newline'",
        ),
        (
            {"base_model.model.lm_head.weight": torch.zeros(3)},
            {},
            "have no place in an adapter .*'base_model.model.lm_head.weight'",
        ),
        (dict([vision("A", 1.0)]), {}, "has lora_A.weight in .*, where lora_A.weight, lora_B.weight are expected"),
        (
            {f"{ORIGINAL}layers.99.mlp.up_proj.lora_{s}.weight": torch.ones(4, 4) for s in "AB"},
            {},
            "has no linear layer .*layers.99",
        ),
        ({}, {"r": 8}, r"is \(4, \d+\) in .*, and \(8, \d+\) is expected; it was made for a model of another size"),
        ({}, {"peft_type": "IA3"}, "holds a IA3 adapter"),
        ({}, {"modules_to_save": ["lm_head"]}, "has modules_to_save="),
        ({}, {"use_dora": True}, "where lora_A.weight, lora_B.weight, lora_magnitude_vector are expected"),
        ({}, {"rank_pattern": {"layers.0.self_attn.q_proj": 2}}, r"is \(4, \d+\) in .*, and \(2, \d+\) is expected"),
        ({}, {"alpha_pattern": {"(": 2}}, "cannot be converted: its expression '\\(' cannot be read"),
        ({}, {"r": "four"}, "cannot be converted: a rank of it is 'four'"),
    ],
)
def test_what_has_no_place_is_refused_in_words(
    original: Write, network: Any, more: dict[str, torch.Tensor], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(original(more, **settings), network, "base")


def test_code_in_a_pickle_is_never_run(original: Write, network: Any, tmp_path: Path) -> None:
    folder = original()

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="adapter_model.bin cannot be read as plain tensors"):
        convert(folder, network, "base")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("name", "layers"), [("llava15_7b", 32), ("llava16_mistral_7b", 32)])
def test_every_key_of_a_published_adapter_of_true_size_has_its_place(tmp_path: Path, name: str, layers: int) -> None:
    """The names of `liuhaotian/llava-v1.5-7b-lora` and of STIC's adapter, at rank 1."""
    model = meta_model(name)
    state = {}
    for layer in range(layers):
        for part in (*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))):
            linear = model.get_submodule(f"model.language_model.layers.{layer}.{part}")
            state[f"{ORIGINAL}layers.{layer}.{part}.lora_A.weight"] = torch.zeros(
                1, linear.in_features, dtype=torch.bfloat16
            )
            state[f"{ORIGINAL}layers.{layer}.{part}.lora_B.weight"] = torch.zeros(
                linear.out_features, 1, dtype=torch.bfloat16
            )
    for layer in range(24):
        for part in "qkv":
            for side, shape in (("A", (1, 1024)), ("B", (1024, 1))):
                name = f"vision_tower.vision_tower.vision_model.encoder.layers.{layer}.self_attn.{part}_proj.lora_{side}.weight"
                state[ORIGINAL + name] = torch.zeros(shape)
    projector = {
        f"{ORIGINAL}mm_projector.{place}.{kind}": torch.zeros(
            model.get_submodule(f"model.multi_modal_projector.linear_{number}").get_parameter(kind).shape
        )
        for place, number in ((0, 1), (2, 2))
        for kind in ("weight", "bias")
    }
    torch.save(state, tmp_path / "adapter_model.bin")
    torch.save(projector, tmp_path / "non_lora_trainables.bin")
    (tmp_path / "adapter_config.json").write_text(json.dumps({**SETTINGS, "r": 1}))
    made = convert(tmp_path, model, "base")
    assert made.counts == {
        "LoRA weights of the language model": 2 * 7 * layers,
        "LoRA weights of the vision tower that do nothing, left out": 2 * 3 * 24,
        "projector weights": 4,
    }
    assert len(made.state) == 2 * 7 * layers + 4


def test_the_expression_matches_only_what_was_adapted() -> None:
    import re

    names = [f"model.layers.{n}.mlp.up" for n in range(3)] + ["model.layers.1.self.q"]
    found = expression_of(names)
    every = [f"model.layers.{n}.{part}" for n in range(3) for part in ("mlp.up", "self.q")] + [
        "model.layers.0.mlp.up.x"
    ]
    assert sorted(name for name in every if re.fullmatch(found, name)) == sorted(names)


def _picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (96, 96), "red")


def _inputs(policy: Any) -> dict[str, Any]:
    processor = policy.encoder.processor
    text = policy.encoder.render("What is there?")
    return dict(processor(images=_picture(), text=text, return_tensors="pt"))
