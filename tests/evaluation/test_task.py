"""The task `evaluate` on the shipped model: suites from the configuration, files in the run folder, paired with an adapter."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from parallax.evaluation import Evaluation
from parallax.settings.groups import Lora
from parallax.settings.shipped import shipped
from parallax.tasks.evaluate import describing, evaluation_view, run
from parallax.tasks.parts import build_suites

SMALL = (
    "task=evaluate", "evaluation.scenes=6", "evaluation.pope_scenes=2", "evaluation.bootstrap=50", "logger=none",
    "trainer=cpu", "generation.max_new_tokens=16",
)  # fmt: skip


def plain(cfg: Any) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def test_the_configuration_gives_the_suites_of_the_built_in_world(compose_config: Callable[..., Any]) -> None:
    suites = build_suites(plain(compose_config(*SMALL))["evaluation"])
    assert [(suite.name, len(suite.samples), suite.max_new_tokens) for suite in suites] == [
        ("chair", 6, 16), ("accuracy", 6, 16), ("pope", 12, 16),
    ]  # fmt: skip
    right = suites[0].samples[0]
    assert suites[0].score(right, right.answer)["chair_i"][0] == 0.0
    limited = build_suites(plain(compose_config(*SMALL, "evaluation.limit=3"))["evaluation"])
    assert [len(suite.samples) for suite in limited] == [3, 3, 3]
    assert build_suites({"suites": {}}) == []


def test_describing_first_is_asked_for_by_the_configuration(compose_config: Callable[..., Any]) -> None:
    assert describing(plain(compose_config())["evaluation"]) is None
    first = describing(plain(compose_config("evaluation.describe_and_respond=true", *SMALL))["evaluation"])
    assert first is not None and (first.prompt, first.max_new_tokens) == ("Describe the image.", 16)
    with pytest.raises(ValueError, match="describe_template='no place' must hold"):
        describing(
            {
                **plain(compose_config("evaluation.describe_and_respond=true"))["evaluation"],
                "describe_template": "no place",
            }
        )


def test_a_view_of_the_configuration_becomes_a_spec() -> None:
    view = evaluation_view({"view": {"_target_": "augment.diffusion.Diffusion", "noise_steps": 300}}, seed=4)
    assert view is not None and (view.name, dict(view.params), view.seed) == ("diffusion", {"noise_steps": 300}, 4)
    assert evaluation_view({"view": None}, 0) is None


def test_the_task_measures_a_model_and_then_its_adapter(compose_config: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    from parallax.tasks.parts import make_policy

    cache = f"paths.cache_dir={tmp_path / 'cache'}"
    cfg = compose_config(*SMALL, cache, f"paths.output_dir={tmp_path / 'alone'}")
    results = run(cfg)
    assert results["after"]["chair_i"]["value"] is not None and results["before"]["chair_i"]["value"] is None
    assert json.loads((tmp_path / "alone" / "results.json").read_text()) == results
    assert (tmp_path / "alone" / "report.html").is_file() and (tmp_path / "alone" / "run.log").read_text()

    policy = make_policy(plain(cfg), shipped(Lora, r=4), adapter=None, device="cpu")
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    policy.touched()
    policy.save_adapter(tmp_path / "adapter")
    both = run(
        compose_config(*SMALL, cache, f"paths.output_dir={tmp_path / 'both'}", f"adapter={tmp_path / 'adapter'}")
    )
    assert both["before"]["chair_i"] == results["after"]["chair_i"]
    assert both["difference"]["recall"]["value"] is not None and not math.isnan(both["difference"]["recall"]["value"])
    before = Evaluation.load(tmp_path / "both" / "evaluations" / "before.json")
    after = Evaluation.load(tmp_path / "both" / "evaluations" / "after.json")
    assert before.meta["reused"] == ["chair", "accuracy", "pope"] and after.meta["reused"] == []
    assert [item.answer for item in before.items] != [item.answer for item in after.items]
