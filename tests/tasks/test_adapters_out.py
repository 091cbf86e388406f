"""Adapters go out with a card, load in plain peft and plain transformers, and reach the hub only when that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from parallax.settings.check import check
from parallax.settings.errors import ConfigError
from parallax.tasks import run_task

SMALL = (
    "data.size=8", "trainer.batch_size=4", "trainer.micro_batch_size=4", "trainer.max_epochs=1", "evaluation.scenes=4",
    "evaluation.pope_scenes=1", "evaluation.bootstrap=20", "trainer=cpu", "logger=none", "generation.max_new_tokens=24",
    "optim.lr=1e-3", "aug.noise_steps=900",
)  # fmt: skip
ASSETS = Path(__file__).parents[2] / "assets" / "tiny_llava"
Run = Callable[..., Path]


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Run:
    def start(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        cfg = compose_config(*overrides, f"paths.output_dir={folder}", f"paths.cache_dir={tmp_path / 'cache'}")
        check(cfg)
        run_task(cfg)
        return folder

    return start


def test_a_run_leaves_a_card_and_an_adapter_that_plain_libraries_load(run: Run) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = run("run", *SMALL)
    adapter = folder / "stages/align/adapter"
    card = (adapter / "README.md").read_text()
    results = json.loads((folder / "results.json").read_text())
    for words in ("library_name: peft", "# seva: LoRA adapter for tiny_llava", "step 900 of 1000", "pairs_habit_free",
                  f"{results['pairs']['kept']} kept", "| LoRA rank | 32 |", "| objective | DPO |",
                  "PeftModel.from_pretrained"):  # fmt: skip
        assert words in card, words
    after = 100 * results["after"]["recall"]["value"]
    assert re.search(rf"Recall, objects of the image mentioned \| [\d.]+ \| {after:.1f} \|", card)
    assert str(Path.cwd()) not in card and str(folder) not in card  # no machine's paths

    inputs = _inputs(AutoProcessor.from_pretrained(ASSETS))
    base = AutoModelForImageTextToText.from_pretrained(ASSETS)
    with torch.no_grad():
        untuned = base(**inputs).logits
        by_peft = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(ASSETS), str(adapter))(
            **inputs
        ).logits
        base.load_adapter(str(adapter))
        by_transformers = base(**inputs).logits
    assert torch.allclose(by_peft, by_transformers, atol=1e-5) and not torch.allclose(by_peft, untuned, atol=1e-4)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("this/folder", str(adapter)), names)  # the card's own example
    with torch.no_grad():
        assert torch.allclose(names["model"](**inputs).logits, by_peft, atol=1e-5)


def test_a_published_adapter_is_converted_and_then_used_like_ours(run: Run, tmp_path: Path) -> None:
    ours = run("run", *SMALL, "evaluation.when=[]") / "stages/align/adapter"
    theirs = tmp_path / "llava-v1.5-7b-lora"
    theirs.mkdir()
    state = load_file(str(ours / "adapter_model.safetensors"))
    torch.save(
        {key.replace(".language_model.", "."): value for key, value in state.items()}, theirs / "adapter_model.bin"
    )
    settings = json.loads((ours / "adapter_config.json").read_text())
    (theirs / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": ["q_proj", "v_proj"]}))
    output = tmp_path / "converted"
    run("convert", "task=convert_adapter", f"task.input={theirs}", f"task.output={output}", "logger=none")
    made = load_file(str(output / "adapter_model.safetensors"))
    assert made.keys() == state.keys() and all(made[key].equal(state[key]) for key in state)
    assert "# llava-v1.5-7b-lora, converted" in (output / "README.md").read_text()
    merged = [
        run(name, "task=merge", f"adapter={adapter}", f"task.output={tmp_path / name / 'merged'}", "logger=none")
        for name, adapter in (("a", ours), ("b", output))
    ]
    first, second = (load_file(str(folder / "merged" / "model.safetensors")) for folder in merged)
    assert all(first[key].equal(second[key]) for key in first)
    with pytest.raises(FileExistsError, match="is there already"):
        run("convert", "task=convert_adapter", f"task.input={theirs}", f"task.output={output}", "logger=none")
    with pytest.raises(ConfigError, match="task.input is not given: folder with adapter_config.json"):
        run("convert", "task=convert_adapter", "logger=none")


def test_an_upload_is_refused_in_words_before_anything_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match="export.push_to_hub=me/mine needs the network, and this machine is set to be offline"
    ):
        run("run", *SMALL, "export.push_to_hub=me/mine")
    assert not list((tmp_path / "run").glob("stages")), "no work was begun"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="needs a login on the hub; run `hf auth login`"):
        run("run", *SMALL, "export.push_to_hub=me/mine")


def test_what_is_uploaded_is_the_adapter_and_its_card_and_only_when_asked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    from parallax.models import hub
    from parallax.reports.model_card import publish

    asked: list[Any] = []

    class Api:
        """Stands where the hub is."""

        def create_repo(self, repository: str, **options: Any) -> None:
            asked.append((repository, options["private"]))

        def upload_folder(self, **options: Any) -> Any:
            asked.append(options)
            return type("Commit", (), {"commit_url": "address"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    config = {"export": {"push_to_hub": None}, "method": {"name": "seva", "stages": ["align"]}, "lora": {"enabled": True},
              "model": {"name": "llava15_7b", "path": "llava-hf/llava-1.5-7b-hf"}, "data": {"name": "mine"}}  # fmt: skip
    publish(config, {}, tmp_path)
    assert asked == [] and "base_model: llava-hf/llava-1.5-7b-hf" in (tmp_path / "README.md").read_text()
    assert "Nothing was measured" in (tmp_path / "README.md").read_text()
    publish({**config, "export": {"push_to_hub": "me/mine"}}, {}, tmp_path)
    assert asked[0] == ("me/mine", True) and asked[1]["repo_id"] == "me/mine"
    assert asked[1]["folder_path"] == str(tmp_path) and asked[1]["allow_patterns"] == hub.FILES
    assert 'from_pretrained(model, "me/mine")' in (tmp_path / "README.md").read_text()


def _inputs(processor: Any) -> dict[str, Any]:
    from PIL import Image

    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}]
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    return dict(processor(images=Image.new("RGB", (96, 96), "red"), text=text, return_tensors="pt"))
