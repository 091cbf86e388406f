"""The papers' looks at finished runs and images: numbers checked by hand, pictures that are pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parallax.evaluation import Evaluation, EvaluationItem
from parallax.settings.check import check
from parallax.tasks.analyse import length_statistics, mixing, noise_row, run


def finished_run(folder: Path, noise: int, margin: float, recall: float) -> Path:
    """A run folder as `align` leaves it, with the files an analysis reads."""
    stage = folder / "stages" / "align"
    stage.mkdir(parents=True)
    for side, words in (("before", 4), ("after", 6)):
        items = [EvaluationItem("chair", str(i), "1", "", "?", "", "word " * (words + i), True, {}) for i in range(3)]
        Evaluation.from_items(items).save(stage / f"eval_{side}.json")
    (folder / "config.yaml").write_text(f"aug: {{noise_steps: {noise}}}\n")
    (stage / "fit.json").write_text(json.dumps({"late_margin": margin}))
    (folder / "results.json").write_text(json.dumps({"after": {"recall": {"value": recall}}}))
    return folder


def analysed(compose_config: Callable[..., Any], folder: Path, *words: str) -> dict[str, Any]:
    cfg = compose_config("task=analyse", "logger=none", "trainer=cpu", *words, f"paths.output_dir={folder}")
    check(cfg)
    told = run(cfg)
    assert json.loads((folder / "analysis.json").read_text()) == told
    return told


def test_lengths_and_noise_of_finished_runs(compose_config: Callable[..., Any], tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / f"n{n}", n, n / 1000, 0.5 + n / 2000) for n in (800, 500)]
    listed = f"task.runs=[{','.join(map(str, runs))}]"
    told = analysed(compose_config, tmp_path / "out", "task.what=[lengths,noise]", listed, "task.metric=after/recall")
    of_first = told["lengths"][str(runs[0])]
    assert of_first["before"]["chair"]["mean"] == 5 and of_first["after"]["chair"]["median"] == 7
    assert [(row["noise_steps"], row["margin"], row["metric"]) for row in told["noise"]] == [
        (500, 0.5, 0.75),
        (800, 0.8, 0.9),
    ]
    for name in ("lengths.png", "noise.png"):
        assert min(Image.open(tmp_path / "out" / name).size) > 300


def test_training_and_benchmark_images_are_laid_out_beside_each_other(
    compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    told = analysed(compose_config, tmp_path / "out", "task.what=[images]", "task.images=8", "evaluation.limit=8")[
        "images"
    ]
    sources = [point["source"] for point in told["points"]]
    assert sources.count("training") == 8 and set(sources) == {"training", "chair", "accuracy", "pope"}
    assert told["mixing"]["chair"] is not None and Image.open(tmp_path / "out" / "images.png").size[0] > 300


def test_mixing_is_1_by_chance_and_0_for_images_apart() -> None:
    apart = [[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.01, 1.0], [0.02, 1.0]]
    assert mixing(apart, [True] * 3 + [False] * 3, neighbours=2) == 0.0
    assert mixing(apart, [True, False, True, False, True, False], neighbours=5) == pytest.approx(1.0)
    assert mixing(apart, [True] * 6) is None
    assert length_statistics([1, 2, 3])["mean"] == 2.0


def test_a_folder_that_is_no_such_run_is_named(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a", 500, 0.1, 0.5)
    (folder / "config.yaml").write_text("aug: {p: 0.5}\n")
    with pytest.raises(ValueError, match="no aug.noise_steps"):
        noise_row(folder, "after/recall")
