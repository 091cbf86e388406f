"""The walk over transformers' families: every one has a row, the configured ones work, and refusals say why."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from omegaconf import OmegaConf
from packaging.version import Version

from parallax.small_world.toys import families
from parallax.small_world.toys.families import BEGIN, END, Trial, model_types, row, table, try_family, write_table
from parallax.small_world.toys.shrunken_configs import shrunken_config
from parallax.small_world.toys.tiny_configs import BY_HAND, tiny_config

ROOT = Path(__file__).parents[2]


def documented() -> dict[str, tuple[str, str]]:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    found = re.findall(r"^\| `([^`]+)` \| (works|refused) \| (.+) \|$", text, re.MULTILINE)
    return {name: (result, reason) for name, result, reason in found}


def test_every_family_of_the_mapping_has_a_row_in_the_document() -> None:
    """The table is that of the release it names; what a newer one adds is in it after the next walk."""
    rows, document = documented(), (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    of_table = re.search(r"families of transformers (\S+) work", document)
    assert of_table and all(reason.strip() for _, reason in rows.values())
    if Version(transformers.__version__) <= Version(of_table[1]):
        assert set(model_types()) <= set(rows)
    else:
        assert set(model_types()) & set(rows)


def test_the_configured_families_work_in_the_document() -> None:
    configured = {str(OmegaConf.load(path).get("family")) for path in (ROOT / "conf" / "model").glob("*.yaml")} - {
        "None"
    }
    assert configured and {documented()[family][0] for family in configured} == {"works"}


@pytest.mark.parametrize("model_type", [*BY_HAND, "qwen2_vl", "gemma3", "idefics3"])
def test_families_take_an_image_lora_a_step_and_generate(model_type: str) -> None:
    trial = try_family(model_type)
    assert trial.works, f"{trial.step}: {trial.reason}"
    assert trial.lora_modules >= 8 and trial.parameters < 5_000_000 and trial.layout


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [name for name, (result, _) in documented().items() if result == "works"])
def test_what_the_document_says_works_works(model_type: str) -> None:
    trial = try_family(model_type)
    assert trial.works, f"{trial.step}: {trial.reason}"


def test_families_that_cannot_be_aligned_are_refused_with_the_reason() -> None:
    trial = try_family("evolla")
    assert (trial.works, trial.step, trial.reason) == (False, "configuration", "reads proteins, not images")
    assert "encoder and decoder are apart" in try_family("t5gemma2").reason


def test_an_error_in_a_family_becomes_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model_type: str) -> None:
        raise RuntimeError("the | first <thing>\n went wrong. And then more happened. " + "x" * 500)

    monkeypatch.setattr(families, "_config", broken)
    trial = try_family("llava")
    assert (trial.works, trial.step) == (False, "configuration")
    assert trial.reason == "the toy does not run (RuntimeError: the / first ‹thing› went wrong)"


def test_a_model_that_ignores_its_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(config: object) -> torch.nn.Module:
        model = original(config)
        torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.weight)
        return model

    original = families._network
    monkeypatch.setattr(families, "_network", blind)
    assert try_family("llava").reason == "its answer does not depend on the image"


def test_the_table_goes_between_the_marks_and_families_that_work_come_first(tmp_path: Path) -> None:
    document = tmp_path / "models.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    trials = [Trial("b", False, "image", "why"), Trial("a", True, "generation", "", "picture", 10, 14)]
    write_table(trials, document)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.index("| `a` | works | image as picture; LoRA on 14 layers |") < text.index(
        "| `b` | refused | image: why |"
    )
    assert "1 of 2 families" in table(trials) and row(trials[0]) in text
    (tmp_path / "bare.md").write_text("nothing")
    with pytest.raises(ValueError, match="has no marks"):
        write_table(trials, tmp_path / "bare.md")


def test_toy_configurations_are_small_and_unknown_ones_refused() -> None:
    for model_type in BY_HAND:
        assert tiny_config(model_type).get_text_config().num_hidden_layers == 2
    assert shrunken_config("qwen3_vl").get_text_config().hidden_size == 64
    with pytest.raises(ValueError, match="no toy configuration of 'unheard_of'"):
        tiny_config("unheard_of")


@pytest.mark.slow
def test_the_command_tries_families_in_processes_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "parallax.small_world.toys.families", "llava", "pi0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 2 families" in done.stdout and "| `llava` | works |" in done.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "parallax.small_world.toys.families", "lava"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "not in transformers' mapping: lava" in wrong.stderr
