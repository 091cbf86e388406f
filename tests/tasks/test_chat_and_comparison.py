"""Trying a model in the terminal, and two adapters side by side on the same questions."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from parallax.settings.check import check, find_problems
from parallax.tasks import run_task
from tests.evaluation.judge_server import judging

SMALL = ("evaluation.scenes=6", "evaluation.pope_scenes=2", "evaluation.bootstrap=50", "logger=none", "trainer=cpu",
         "generation.max_new_tokens=12")  # fmt: skip
PHOTO = Path(__file__).parents[1] / "evaluation" / "official" / "coco" / "val2014" / "COCO_val2014_000000000001.jpg"


@pytest.fixture
def start(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Path]:
    def start(*words: str) -> Path:
        cfg = compose_config(
            *SMALL, *words, f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"
        )
        check(cfg)
        run_task(cfg)
        return tmp_path / "run"

    return start


def test_chat_shows_before_and_after_side_by_side(
    start: Callable[..., Path], adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("task=chat", f"task.image={PHOTO}", f"adapter={adapter}", "task.questions=['Describe the image.']")
    shown = capsys.readouterr().out
    assert "base" in shown and "aligned" in shown and "Describe the image." in shown and PHOTO.name in shown


def test_chat_reads_questions_and_other_images_from_the_terminal(
    start: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [":image nowhere.jpg", f":image {PHOTO}", "Is there a circle?", "", "never asked"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    start("task=chat")
    shown = capsys.readouterr().out
    assert "is missing" in shown and f"looking at {PHOTO.name}" in shown and "Is there a circle?" in shown
    assert "never asked" not in shown and "aligned" not in shown


def test_two_adapters_are_compared_on_the_same_questions(
    start: Callable[..., Path], adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with judging(lambda body, before: "I like it.\nsecond") as server:
        judge = (f"evaluation.judge.url={server.url}", "evaluation.judge.retries=0")
        folder = start("task=compare_adapters", f"task.other={adapter}", "task.win_rate=true", *judge)
    told = json.loads((folder / "comparison.json").read_text())
    assert told["first"] == "base model" and told["second"] == str(adapter)
    test, change = told["sign_tests"]["recall"], told["difference"]["recall"]
    assert test["higher"] + test["lower"] + test["equal"] == 6 and change["low"] <= change["value"] <= change["high"]
    assert (
        told["win_rate"]["ties"] > 0 and told["win_rate"]["wins"] == 0
    )  # always the second: the order decides, so nobody wins
    assert (folder / "evaluations" / "first.json").is_file() and (folder / "report.html").is_file()
    shown = capsys.readouterr().out
    assert "second − first" in shown and "The judge preferred neither side" in shown


def test_a_comparison_without_a_second_adapter_is_refused(
    compose_config: Callable[..., DictConfig], adapter: Path
) -> None:
    assert "task.other" in find_problems(compose_config("task=compare_adapters"))
    assert (
        "no adapter_config.json"
        in find_problems(compose_config("task=compare_adapters", "task.other=here"))["task.other"]
    )
    alone = find_problems(compose_config("task=compare_adapters", f"task.other={adapter}", "task.win_rate=true"))
    assert "asks a judge" in alone["evaluation.judge.url"]
    unwatched = find_problems(compose_config("evaluation.monitor=recall"))
    assert "evaluation.every_n_steps is null" in unwatched["evaluation.monitor"]
    assert "set evaluation.monitor" in find_problems(compose_config("evaluation.patience=2"))["evaluation.patience"]


def test_a_run_hands_on_the_weights_of_its_best_step(start: Callable[..., Path]) -> None:
    folder = start(
        "method=seva", "debug.limit_samples=12", "trainer.batch_size=4", "trainer.max_epochs=1", "debug.max_steps=3",
        "evaluation.every_n_steps=1", "evaluation.watch_limit=4", "evaluation.monitor=recall", "evaluation.patience=1",
        "pairs.drop_equal=false",
    )  # fmt: skip
    fit = json.loads((folder / "stages" / "align" / "fit.json").read_text())
    best = fit["best"]
    assert best["monitor"] == "eval/recall" and 1 <= best["step"] <= fit["steps"] <= 3
    assert best["stopped_early"] == (fit["steps"] > best["step"])
    from safetensors.torch import load_file

    kept = torch.load(folder / f"stages/align/checkpoints/best-{best['step']:06d}.ckpt", weights_only=True)[
        "state_dict"
    ]
    saved = load_file(folder / "stages" / "align" / "adapter" / "adapter_model.safetensors")
    assert saved and all(any(torch.equal(value, other) for other in kept.values()) for value in saved.values())
