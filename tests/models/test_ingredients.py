"""Each thing that decides a model's numbers is in the key of what is kept: changed one at a time, each is a miss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules import references
from datamodules.references import reference_name
from parallax.evaluation.judged.client import JudgeClient, JudgePrompt
from parallax.models.generation import generate
from parallax.models.image_text import ImageTextModel
from tests.faults import Injected
from tests.models.wire import SAID, whole, wired
from tests.parts import part
from tests.typed import load_policy

ROOT = Path(__file__).resolve().parents[2]
Change = Callable[[Path], None]


def in_json(name: str, **values: Any) -> Change:
    """Set values in a JSON file of the folder; a key such as `text_config__rope_theta` is one below another."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text("utf-8"))
        for key, value in values.items():
            *above, last = key.split("__")
            node = content
            for step in above:
                node = node.setdefault(step, {})
            node[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def appended(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text((folder / name).read_text("utf-8") + text, "utf-8")


def other_weights(folder: Path, file: str = "model.safetensors", of: str = "") -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / file)
    name = next(name for name in state if of in name)
    state[name] = state[name] * 1.5 + 0.01
    save_file(state, folder / file, metadata={"format": "pt"})


def another_word(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(content))


POLICY: dict[str, Change] = {
    "weights": other_weights,
    "rope": in_json("config.json", text_config__rope_parameters={"rope_theta": 5000.0, "rope_type": "default"}),
    "epsilon of the norms": in_json("config.json", text_config__rms_norm_eps=0.01),
    "epsilon of the tower": in_json("config.json", vision_config__layer_norm_eps=0.01),
    "which features": in_json("config.json", vision_feature_layer=-2),
    "end token": in_json("generation_config.json", eos_token_id=[2, 7]),
    "generation": in_json("generation_config.json", suppress_tokens=[5]),
    "mean of the pixels": in_json("processor_config.json", image_processor__image_mean=[0.4, 0.4, 0.4]),
    "tokenizer": another_word,
    "template": appended("chat_template.jinja", " "),
}  # fmt: skip
NOTHING: dict[str, Change] = {
    "a name": in_json("config.json", _name_or_path="/elsewhere"),
    "a version": in_json("config.json", transformers_version="5.99"),
    "a remark": lambda folder: (folder / "README.md").write_text("hello"),
}


def policy_of(folder: Path) -> Any:
    return load_policy({"path": str(folder), "feature_cache": "none"}, None)  # remembers no digest beside the model


def answer_key(policy: Any) -> str:
    from datamodules.shapes.source import ShapesSource
    from parallax.models.generation.requests import GenerationRequest
    from parallax.records import Decoding, ViewSpec

    sample = ShapesSource("tune_habitual", 1)[0]
    key: str = policy.spec(GenerationRequest(sample.id, sample.image, "Where?", ViewSpec(), Decoding(4))).key()
    return key


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("model") / "llava"
    shutil.copytree(ROOT / "assets" / "tiny_llava", folder)
    policy = policy_of(folder)
    return answer_key(policy), reference_name(policy)


@pytest.mark.parametrize("what", POLICY)
def test_each_ingredient_of_a_policy_is_a_miss(
    what: str, before: tuple[str, str], tmp_path: Path, injected: Injected
) -> None:
    shutil.copytree(ROOT / "assets" / "tiny_llava", tmp_path / "llava")
    POLICY[what](tmp_path / "llava")
    policy = policy_of(tmp_path / "llava")
    assert answer_key(policy) != before[0] and reference_name(policy) != before[1]
    injected("ingredient of a model changed under its name", told=1, says="nothing kept of the old one is used")


@pytest.mark.parametrize("what", NOTHING)
def test_what_decides_nothing_is_no_miss(what: str, before: tuple[str, str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "assets" / "tiny_llava", tmp_path / "elsewhere")
    NOTHING[what](tmp_path / "elsewhere")
    policy = policy_of(tmp_path / "elsewhere")
    assert (answer_key(policy), reference_name(policy)) == before


def test_a_template_that_prints_the_date_is_another_prompt_the_next_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "assets" / "tiny_llava", tmp_path / "llava")
    template = tmp_path / "llava" / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b') }} " + template.read_text("utf-8"))
    policy = policy_of(tmp_path / "llava")
    today = answer_key(policy)
    assert answer_key(policy) == today
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", _Tomorrow)
    assert answer_key(policy) != today


class _Tomorrow:
    @staticmethod
    def now() -> Any:
        from datetime import datetime

        return datetime(2001, 2, 3)


def test_the_version_of_the_code_is_an_ingredient(before: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(ROOT / "assets" / "tiny_llava")
    assert (answer_key(policy), reference_name(policy)) == before
    monkeypatch.setattr(generate, "VERSION", "next")
    monkeypatch.setattr(references, "SCORING", "next")
    assert answer_key(policy) != before[0] and reference_name(policy) != before[1]


FEATURES = ("weights of the tower", "epsilon of the tower", "which features", "mean of the pixels")


@pytest.mark.parametrize("what", FEATURES)
def test_each_ingredient_of_image_features_is_a_miss(what: str, tmp_path: Path) -> None:
    def place(folder: Path) -> tuple[str, str]:
        """Folder and processor under which features are kept on disk."""
        policy = load_policy({"path": str(folder), "feature_cache": "disk"}, None, feature_folder=tmp_path / "features")
        return policy.features.cache.folder.name, policy.encoder.processor_fingerprint

    shutil.copytree(ROOT / "assets" / "tiny_llava", tmp_path / "llava")
    if what == "weights of the tower":
        other_weights(tmp_path / "llava", of="vision")
    else:
        POLICY[what](tmp_path / "llava")
    before, after = place(ROOT / "assets" / "tiny_llava"), place(tmp_path / "llava")
    assert (before[1] != after[1]) if what == "mean of the pixels" else (before[0] != after[0])


ADAPTER: dict[str, Change] = {
    "weights": partial(other_weights, file="adapter_model.safetensors"),
    "alpha": in_json("adapter_config.json", lora_alpha=3),
    "rank-stabilised": in_json("adapter_config.json", use_rslora=True),
    "alpha of one layer": in_json("adapter_config.json", alpha_pattern={"q_proj": 5}),
}


@pytest.mark.parametrize("what", ADAPTER)
def test_each_ingredient_of_an_adapter_is_a_miss(what: str, adapter: Path, tmp_path: Path) -> None:
    base = {"path": str(ROOT / "assets" / "tiny_llava"), "feature_cache": "none"}
    shutil.copytree(adapter, tmp_path / "other")
    ADAPTER[what](tmp_path / "other")
    here, other = (
        answer_key(load_policy(base, {"enabled": True}, adapter=place)) for place in (adapter, tmp_path / "other")
    )
    assert here != other and here == answer_key(load_policy(base, {"enabled": True}, adapter=adapter))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    load_policy({"path": str(ROOT / "assets" / "tiny_llava")}, {"enabled": True}).save_adapter(folder)
    return folder


@pytest.mark.parametrize("changed", [{"model": "n"}, {"temperature": 0.5}, {"max_tokens": 8}])
def test_each_setting_of_an_asked_judge_is_a_miss(changed: dict[str, Any], tmp_path: Path) -> None:
    with wired(whole(SAID)) as wire:

        def asked(**settings: Any) -> int:
            client = part(JudgeClient, **{"url": wire.url, "model": "m", "cache_dir": str(tmp_path), **settings})
            client.verdicts([JudgePrompt("is it?", str)])
            return client.asked

        assert [asked(), asked(), asked(**changed)] == [1, 0, 1]


CLIP: dict[str, Change] = {
    "weights": other_weights,
    "scale": in_json("config.json", vision_config__layer_norm_eps=0.01),
    "mean of the pixels": in_json("processor_config.json", image_processor__image_mean=[0.1, 0.1, 0.1]),
    "tokenizer": another_word,
}


@pytest.mark.parametrize("what", CLIP)
def test_each_ingredient_of_the_clip_judge_is_a_miss(what: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "assets" / "tiny_clip", tmp_path / "clip")
    assert (
        ImageTextModel(str(tmp_path / "clip")).digest() == ImageTextModel(str(ROOT / "assets" / "tiny_clip")).digest()
    )
    CLIP[what](tmp_path / "clip")
    assert (
        ImageTextModel(str(tmp_path / "clip")).digest() != ImageTextModel(str(ROOT / "assets" / "tiny_clip")).digest()
    )
