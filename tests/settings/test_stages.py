"""Global keys reach every stage; `stages.<name>.<key>` changes one; what refers to a group sees the stage's own values."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig

from parallax.settings.errors import ConfigError
from parallax.settings.schema import STAGE_GROUPS
from parallax.settings.stages import overlay, planned_stages, resolve_stages

Compose = Callable[..., DictConfig]
SECOND = "+stages.second={fit: supervised, proposer: null, selector: {_target_: parallax.preference.selector.BestAgainstRest}}"


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


def test_a_stage_is_plain_data_with_every_group_and_no_reference_left(compose_config: Compose) -> None:
    (stage,) = resolve_stages(compose_config())
    assert is_plain(stage) and "${" not in str(stage)
    assert set(stage) == {"name", "fit", "proposer", "selector", "seed", "debug", *STAGE_GROUPS}
    assert stage["name"] == "align" and stage["fit"] == "preference"


def test_global_keys_reach_the_stage(compose_config: Compose) -> None:
    (stage,) = resolve_stages(compose_config("loss.beta=0.3", "optim.lr=1e-5", "aug.noise_steps=700", "seed=4"))
    assert stage["loss"]["beta"] == 0.3 and stage["optim"]["lr"] == 1e-5
    assert stage["proposer"]["view"]["noise_steps"] == 700
    assert stage["seed"] == 4 and stage["data"]["seed"] == 4


def test_a_stages_own_key_changes_that_stage_alone(compose_config: Compose) -> None:
    cfg = compose_config(SECOND, "method.stages=[align,second]", "++stages.align.loss.beta=0.7", "optim.lr=1e-5")
    first, second = resolve_stages(cfg)
    assert (first["loss"]["beta"], second["loss"]["beta"]) == (0.7, 1.0)
    assert first["optim"]["lr"] == second["optim"]["lr"] == 1e-5


def test_what_a_stage_takes_from_a_group_follows_the_stages_own_values(compose_config: Compose) -> None:
    cfg = compose_config(
        "++stages.align.pairs.num_negatives=3", "++stages.align.generation.max_new_tokens=7",
        "++stages.align.aug.noise_steps=900", "++stages.align.pairs.drop_equal=false",
    )  # fmt: skip
    (stage,) = resolve_stages(cfg)
    assert (
        stage["proposer"]["num_negatives"] == stage["selector"]["num_negatives"] == stage["pairs"]["num_negatives"] == 3
    )
    assert stage["proposer"]["max_new_tokens"] == 7
    assert stage["proposer"]["view"]["noise_steps"] == stage["aug"]["noise_steps"] == 900
    assert stage["selector"]["drop_equal"] is False


def test_another_class_for_one_stage_replaces_the_whole_node(compose_config: Compose) -> None:
    (stage,) = resolve_stages(compose_config("+aug@stages.align.aug=random_flip", "+loss@stages.align.loss=stic"))
    assert stage["aug"]["_target_"] == "augment.geometric.RandomFlip" and "noise_steps" not in stage["aug"]
    assert "label_smoothing" not in stage["loss"] and stage["loss"]["alpha"] == 1 / 1024


def test_only_the_stages_of_the_method_come_and_in_its_order(compose_config: Compose) -> None:
    assert [stage["name"] for stage in resolve_stages(compose_config(SECOND, "method.stages=[second,align]"))] == [
        "second",
        "align",
    ]
    assert [stage["name"] for stage in resolve_stages(compose_config(SECOND))] == ["align"]


def test_a_stage_that_does_not_exist_is_refused(compose_config: Compose) -> None:
    with pytest.raises(ConfigError, match="'nowhere', and the method has no such stage; it has align"):
        resolve_stages(compose_config("method.stages=[nowhere]"))


def test_alpha_of_lora_is_twice_the_rank_unless_it_is_given(compose_config: Compose) -> None:
    assert resolve_stages(compose_config("lora.r=8"))[0]["lora"]["alpha"] == 16
    assert resolve_stages(compose_config("lora.r=8", "lora.alpha=3"))[0]["lora"]["alpha"] == 3
    assert resolve_stages(compose_config("lora=none"))[0]["lora"] == {"enabled": False}


def test_resolving_leaves_the_configuration_as_it_was(compose_config: Compose) -> None:
    cfg = compose_config("++stages.align.loss.beta=0.7")
    before = cfg.copy()
    resolve_stages(cfg)
    assert cfg == before


def test_the_models_recipe_reaches_the_groups(compose_config: Compose) -> None:
    (stage,) = resolve_stages(compose_config("model=llava15_7b"))
    assert (stage["lora"]["r"], stage["lora"]["alpha"], stage["optim"]["lr"]) == (1024, 2048, 2e-6)
    assert (stage["trainer"]["batch_size"], stage["generation"]["max_new_tokens"]) == (128, 512)


@pytest.mark.parametrize(("size", "steps", "rank"), [("7b", 800, 1024), ("13b", 500, 1024)])
def test_the_published_recipes_have_the_papers_settings(
    size: str, steps: int, rank: int, compose_config: Compose
) -> None:
    """SeVa, arXiv 2404.10501, section 4.1 and its scripts. Rank 1024 and alpha 2048 are the paper's for both sizes."""
    (stage,) = resolve_stages(compose_config(f"experiment=seva_llava15_{size}", "data.path=x", "data.image_root=y"))
    assert stage["aug"]["noise_steps"] == steps
    assert (stage["lora"]["r"], stage["lora"]["alpha"]) == (rank, 2048)
    optim, trainer = stage["optim"], stage["trainer"]
    assert (optim["lr"], optim["scheduler"], optim["warmup_ratio"], optim["weight_decay"]) == (2e-6, "cosine", 0.03, 0)
    assert (trainer["batch_size"], trainer["max_epochs"], trainer["gradient_clip_val"]) == (128, 1, 1.0)
    assert stage["loss"] == {"_target_": "lightning_modules.objectives.DPO", "beta": 0.1, "label_smoothing": 0.0}
    assert stage["generation"]["max_new_tokens"] == 512 and stage["generation"]["temperature"] == 0
    assert stage["data"]["parts"] == {"textcaps": 8000, "ocr_vqa": 4000}


@pytest.mark.parametrize(
    ("method", "size", "epochs"), [("sima", "7b", 3), ("sima", "13b", 1), ("csr", "7b", 1), ("csr", "13b", 1)]
)
def test_sima_and_csr_have_the_papers_settings(method: str, size: str, epochs: int, compose_config: Compose) -> None:
    """SIMA (arXiv 2405.15973) and CSR (arXiv 2405.14622) share their optimiser settings."""
    (stage,) = resolve_stages(compose_config(f"experiment={method}_llava15_{size}", "data.path=x", "data.image_root=y"))
    assert (stage["lora"]["r"], stage["lora"]["alpha"], stage["loss"]["beta"]) == (128, 256, 0.1)
    optim, trainer = stage["optim"], stage["trainer"]
    assert (optim["lr"], optim["scheduler"], optim["warmup_ratio"], optim["weight_decay"]) == (1e-7, "cosine", 0.03, 0)
    assert (trainer["max_epochs"], trainer["gradient_clip_val"]) == (epochs, 1.0)
    proposer, judge = stage["proposer"], stage["judge"]
    if method == "sima":
        assert (proposer["num_samples"], proposer["temperature"], proposer["top_p"]) == (1, 0.8, 0.9)
        assert (proposer["max_new_tokens"], judge["prompt"], judge["order"]) == (1024, "critic_full", "both")
    else:
        assert (proposer["num_groups"], proposer["diversity_penalty"], proposer["max_sentence_tokens"]) == (5, 3.0, 70)
        assert (proposer["keep_top"], proposer["keep_bottom"], proposer["prune_from"]) == (1, 2, 5)
        assert judge["image_text"]["path"] == "openai/clip-vit-large-patch14-336" and judge["image_weight"] == 0.9
        assert proposer["judge"] == judge


def test_overlay_goes_key_by_key_unless_the_class_changes() -> None:
    base = {"_target_": "a.B", "x": 1, "deep": {"y": 2, "z": 3}}
    assert overlay(base, {"deep": {"y": 5}}) == {"_target_": "a.B", "x": 1, "deep": {"y": 5, "z": 3}}
    assert overlay(base, {"_target_": "a.C", "w": 1}) == {"_target_": "a.C", "w": 1}
    assert overlay(base, None) is None


def test_rounds_repeat_the_stages_under_names_of_their_own(compose_config: Compose) -> None:
    words = (SECOND, "method.stages=[align,second]")
    once = planned_stages(compose_config(*words))
    assert [(p.round, p.name, p.opens_round, p.closes_round) for p in once] == [
        (1, "align", True, False), (1, "second", False, True),
    ]  # fmt: skip
    twice = planned_stages(compose_config(*words, "method.rounds=2"))
    assert [p.name for p in twice] == ["round_1/align", "round_1/second", "round_2/align", "round_2/second"]
    assert [p.opens_round for p in twice] == [True, False, True, False]
    assert twice[0].stage == twice[2].stage and twice[0].stage is not twice[2].stage


def test_a_stage_may_take_over_a_part_of_another(compose_config: Compose) -> None:
    first, second = resolve_stages(compose_config("method=povid"))
    assert second["proposer"] == first["proposer"] and second["selector"] == first["selector"]
    assert second["noise"]["_target_"] == "augment.diffusion.Diffusion" and first.get("noise") is None


def test_what_a_method_needs_on_some_data_comes_with_that_data_alone(compose_config: Compose) -> None:
    _, on_shapes = resolve_stages(compose_config("method=stic"))
    _, on_files = resolve_stages(compose_config("method=stic", "data=image_folder", "data.path=x"))
    assert on_files["data"]["prompts"] == on_files["infusion"]["prompts"]
    assert on_shapes["data"]["split"] == "base_train" and on_files["data"]["path"] == "x"
    assert on_shapes["infusion"]["prompts"] != on_files["infusion"]["prompts"]
