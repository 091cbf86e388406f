"""A whole run of SeVa on photographs in LLaVA-665k's layout, evaluated with POPE and CHAIR from their official files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from parallax.evaluation import Evaluation
from parallax.settings.check import check
from parallax.tasks import run_task

OFFICIAL = Path(__file__).parents[1] / "evaluation" / "official"
COCO = OFFICIAL / "coco"
BOTH = (
    "evaluation=[pope,chair]", f"evaluation.pope_path={OFFICIAL / 'pope'}", f"evaluation.pope_images={COCO / 'val2014'}",
    f"evaluation.chair_annotations={COCO / 'annotations'}", f"evaluation.chair_images={COCO / 'val2014'}",
    "evaluation.bootstrap=50", "evaluation.max_new_tokens=8",
)  # fmt: skip


def run_words(compose_config: Callable[..., DictConfig], folder: Path, *words: str) -> dict[str, Any]:
    cfg = compose_config(
        *words, "trainer=cpu", "logger=none", f"paths.output_dir={folder}", f"paths.cache_dir={folder.parent / 'cache'}"
    )
    check(cfg)
    run_task(cfg)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def llava_mix(folder: Path) -> Path:
    """LLaVA-665k's layout: image paths by source, conversations of several turns."""
    rows = [
        {
            "id": f"{number:012d}",
            "image": f"coco/val2014/COCO_val2014_{number:012d}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is in the picture?"},
                {"from": "gpt", "value": "A picture."},
                {"from": "human", "value": "Describe it in detail."},
                {"from": "gpt", "value": "It is a photograph."},
            ],
        }
        for number in (1, 2, 3, 4)
    ]
    file = folder / "llava_v1_5_mix665k.json"
    file.write_text(json.dumps(rows))
    return file


def test_seva_on_photographs_is_measured_with_pope_and_chair_before_and_after(
    compose_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    results = run_words(
        compose_config, tmp_path / "run", "method=seva", "data=llava_json", f"data.path={llava_mix(tmp_path)}",
        f"data.image_root={OFFICIAL}", "aug.noise_steps=900", "generation.max_new_tokens=12", "trainer.batch_size=4",
        "trainer.micro_batch_size=2", "trainer.max_epochs=1", "pairs.drop_equal=false", *BOTH,
    )  # fmt: skip
    assert results["pairs"]["kept"] >= 4 and results["steps"] >= 1
    for side in ("before", "after", "difference"):
        for name in ("pope_accuracy", "pope_adversarial_f1", "pope_yes_ratio", "chair_s"):
            assert results[side][name]["value"] is not None, (side, name)
    assert results["after"]["pope_accuracy"]["n"] == 24 and results["after"]["chair_s"]["n"] == 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "POPE adversarial accuracy" in page and "data:image" in page

    adapter = tmp_path / "run" / "stages" / "align" / "adapter"
    alone = run_words(compose_config, tmp_path / "alone", "task=evaluate", f"adapter={adapter}", *BOTH)
    assert alone["after"] == results["after"] and alone["before"] == results["before"]

    noisy = run_words(
        compose_config, tmp_path / "noisy", "task=evaluate", *BOTH, "aug@evaluation.view=diffusion",
        "evaluation.view.noise_steps=999",
    )  # fmt: skip
    found = Evaluation.load(tmp_path / "noisy" / "evaluations" / "after.json")
    assert found.meta["view"]["params"] == {"noise_steps": 999} and noisy["after"]["chair_s"]["n"] == 4
