"""The walk over transformers' families: every one has a row, the presets' ones work, and refusals say why."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from omegaconf import OmegaConf
from packaging.version import Version

from parallax.models.backbone import known_families, refuse_unfit, support_of
from parallax.models.encoding.pixels import change_pixels, pixel_names
from parallax.models.encoding.token_counts import load_encoder
from parallax.records import ViewSpec
from tests.models.family_walk import own_processors
from tests.models.family_walk import walk as families
from tests.models.family_walk.own_processors import OWN
from tests.models.family_walk.prompts import SIZES, _noise
from tests.models.family_walk.walk import BEGIN, END, Trial, model_types, row, try_family, write
from tests.toys.shrunken_configs import shrunken_config
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.toys.tiny_configs import BY_HAND, tiny_config
from tests.typed import load_policy

ROOT = Path(__file__).parents[2]
NOISE = ViewSpec("diffusion", {"noise_steps": 500}, 3)
WORK = [name for name, support in known_families().items() if support.works]
QUICK = ["gemma3", "smolvlm", "paligemma"]  # image tokens that see each other, tiles, a prefix that sees itself


def documented() -> dict[str, str]:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (works|refused) \|", text, re.MULTILINE))


def test_every_family_of_the_mapping_has_a_row_in_the_document_and_in_the_file() -> None:
    """The table is that of the release it names; what a newer one adds is in it after the next walk."""
    document = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    of_table = re.search(r"families of transformers (\S+) work", document)
    assert of_table and documented().keys() == known_families().keys()
    assert {name for name, result in documented().items() if result == "works"} == set(WORK)
    if Version(transformers.__version__) <= Version(of_table[1]):
        assert set(model_types()) <= set(documented())


def test_the_presets_families_work_through_their_own_processors_with_a_shared_prompt() -> None:
    configured = {OmegaConf.load(path).get("family") for path in (ROOT / "conf" / "model").glob("*.yaml")} - {None}
    assert {"qwen3_vl", "internvl", "gemma3", "llava_onevision", "smolvlm"} < configured <= set(WORK)
    assert configured <= set(OWN) and all(support_of(family).shared for family in configured)
    assert len(WORK) >= 50


@pytest.mark.parametrize("model_type", QUICK)
def test_a_family_goes_all_the_way(model_type: str) -> None:
    trial = try_family(model_type)
    assert trial.works, f"{trial.step}: {trial.reason}"
    assert trial.lora_modules >= 8 and trial.processor == (model_type in OWN)
    support = support_of(model_type)
    assert (trial.shared, trial.plain_head) == (support.shared, support.plain_head)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [name for name in WORK if name not in QUICK])
def test_what_the_document_says_works_works(model_type: str) -> None:
    trial = try_family(model_type)
    assert trial.works, f"{trial.step}: {trial.reason}"
    assert (trial.shared, trial.plain_head) == (support_of(model_type).shared, support_of(model_type).plain_head)


@pytest.mark.slow
def test_pixtral_which_is_a_llava_with_a_tower_of_free_size_goes_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = {
        "model_type": "pixtral",
        "image_size": 112,
        "patch_size": 14,
        "head_dim": 16,
        "rope_parameters": {"rope_theta": 1e4},
    }
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"vision_config": {**tower, **size}, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    of_llava = BY_HAND["llava"]
    monkeypatch.setitem(BY_HAND, "llava", lambda tokens: {**of_llava(tokens), **more})
    asked = {**own_processors.PIXTRAL, "processor": {"patch_size": 14, "spatial_merge_size": 1}}
    monkeypatch.setitem(OWN, "llava", own_processors.recipe("llava", "[IMG]", like="mistral3", **asked))
    trial = try_family("llava")
    assert trial.works and trial.processor and trial.shared, f"{trial.step}: {trial.reason}"


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(OWN))
def test_noise_changes_the_pixels_of_a_family_and_nothing_else(model_type: str, tmp_path: Path) -> None:
    encoder = load_encoder({"path": str(make_tiny_checkpoint(model_type, tmp_path, recipe=OWN[model_type]))})
    for size in SIZES:
        image = _noise(1, size)
        clean, noised = (encoder.encode_prompt(image, "What?", view) for view in (ViewSpec(), NOISE))
        same = change_pixels(clean.vision, lambda picture: picture.clone(), encoder.processor.image_processor)
        assert all(torch.equal(same[name], value) for name, value in clean.vision.items())
        changed = {name for name, value in clean.vision.items() if not torch.equal(noised.vision[name], value)}
        assert torch.equal(clean.input_ids, noised.input_ids) and changed and changed <= set(pixel_names(clean.vision))


def test_a_family_that_went_wrong_is_refused_before_its_weights_are_read() -> None:
    with pytest.raises(
        ValueError, match=r"model\.path=somewhere is a mllama model, which cannot be aligned here: looks at"
    ):
        refuse_unfit("mllama", "somewhere")
    refuse_unfit("llava", "somewhere")
    with pytest.raises(
        ValueError, match="is a phi4_multimodal model, .* does not load it as a model of images and text"
    ):
        refuse_unfit("phi4_multimodal", "somewhere")
    assert not support_of("never_heard_of").shared


def test_a_forward_that_fails_in_one_release_refuses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"step": "forward", "refused": "stops", "shared": False, "plain_head": False}
    for installed, works in (("5.24.0", False), ("5.23.0", True)):
        text = json.dumps({"transformers": "5.24.0", "families": {"llama4": row, "mllama": {**row, "step": "saving"}}})
        monkeypatch.setattr("parallax.models.backbone.version", lambda _, installed=installed: installed)
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        known = known_families.__wrapped__()
        assert (not known["llama4"].refused) is works and known["mllama"].refused


def test_a_checkpoint_with_code_of_its_own_is_refused_in_words(tmp_path: Path) -> None:
    own = {"model_type": "molmo", "auto_map": {"AutoConfig": "config_molmo.MolmoConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "config_molmo.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match="brings code of its own, which is never run here"):
        load_policy({"path": str(tmp_path)}, None)


def test_families_that_cannot_be_aligned_are_refused_with_the_reason() -> None:
    trial = try_family("evolla")
    assert (trial.works, trial.step, trial.reason) == (False, "configuration", "reads proteins, not images")
    assert "encoder and decoder are apart" in try_family("t5gemma2").reason


def test_an_error_in_a_family_becomes_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model_type: str) -> None:
        raise RuntimeError("the | first <thing>\n went wrong. And then more happened. " + "x" * 500)

    monkeypatch.setattr(families, "_config", broken)
    monkeypatch.setattr(own_processors, "OWN", {})
    trial = try_family("vipllava")
    assert (trial.works, trial.step) == (False, "configuration")
    assert trial.reason == "the toy does not run (RuntimeError: the / first ‹thing› went wrong)"


def test_a_model_that_ignores_its_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(config: object) -> torch.nn.Module:
        model = original(config)
        torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.weight)
        return model

    original = families._network
    monkeypatch.setattr(families, "_network", blind)
    monkeypatch.setattr(own_processors, "OWN", {})
    trial = try_family("vipllava")
    assert (trial.step, trial.reason) == ("no leak", "another image changes nothing")


def test_new_rows_go_between_the_marks_and_into_the_file_beside_the_old_ones(tmp_path: Path) -> None:
    document, file = tmp_path / "models.md", tmp_path / "support.json"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write([Trial("b", "image", "why"), Trial("a", shared=True)], document, file)
    write([Trial("c", "greedy", "it says something else")], document, file)
    text, rows = document.read_text(), json.loads(file.read_text())["families"]
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.index(row(Trial("a", shared=True))) < text.index("| `b` | refused | image: why |")
    assert "1 of 3 families" in text and rows["a"]["shared"] and rows["a"]["refused"] == ""
    assert rows["b"]["refused"] == "" and rows["c"]["refused"] == "it says something else", (
        "a toy's fault is no refusal"
    )
    (tmp_path / "bare.md").write_text("nothing")
    with pytest.raises(ValueError, match="has no marks"):
        write([], tmp_path / "bare.md", file)


def test_toy_configurations_are_small_and_unknown_ones_refused() -> None:
    for model_type in BY_HAND:
        assert tiny_config(model_type).get_text_config().num_hidden_layers == 2
    assert shrunken_config("qwen3_vl").get_text_config().hidden_size == 64
    with pytest.raises(ValueError, match="no toy configuration of 'unheard_of'"):
        tiny_config("unheard_of")


@pytest.mark.slow
def test_the_command_tries_families_in_processes_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.family_walk.walk", "--dry", "llava", "pi0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| `llava` | works | own |" in done.stderr and "| `pi0` | refused |" in done.stderr
    wrong = subprocess.run(
        [sys.executable, "-m", "tests.models.family_walk.walk", "lava"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "not in transformers' mapping: lava" in wrong.stderr
