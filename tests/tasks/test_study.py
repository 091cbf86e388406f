"""A study from the command line: every arm an ordinary run, one table, and nothing done twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from parallax.reports.study import markdown
from parallax.settings.check import find_problems
from parallax.tasks.program import main

ROOT = Path(__file__).parents[2]
WORDS = (
    "experiment=seva_evidence", "study.seeds=[0]", "data.size=12", "trainer=cpu", "trainer.max_epochs=1",
    "evaluation.scenes=6", "evaluation.pope_scenes=1", "evaluation.bootstrap=20",
)  # fmt: skip


ARMS = (
    "~study.arms.random_rejected", "~study.arms.sft_on_chosen", "~study.arms.habitual_pairs",
    "study.arms.hopeless=['pairs.min_chars=100000']",
)  # fmt: skip


def command(tmp_path: Path, *more: str) -> int:
    """The exit status of the command, which runs in this process."""
    words = [*WORDS, f"study.folder={tmp_path / 'study'}", f"paths.cache_dir={tmp_path / 'cache'}", *more]
    return main([*words, f"hydra.run.dir={tmp_path / 'hydra'}"])


def test_a_study_runs_its_arms_once_and_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, *ARMS) == 0
    summary = json.loads((tmp_path / "study/evidence.json").read_text())
    assert set(summary["arms"]) == {"seva", "swapped", "hopeless"}
    for arm in (summary["arms"]["seva"], summary["arms"]["swapped"]):
        assert arm["seeds"] == 1 and {"chair_i", "recall", "accuracy"} <= set(arm["effects"])
    table = (tmp_path / "study/evidence.md").read_text()
    assert "| seva | 1 |" in table and "| swapped | 1 |" in table
    assert "| hopeless | 0 | – |" in table and "`hopeless`, 1 of 1 seeds: pairs: 0 kept of 12" in table
    assert (tmp_path / "study/evidence.png").stat().st_size > 1000

    capsys.readouterr()
    assert command(tmp_path, *ARMS) == 0
    assert capsys.readouterr().out.count("done before, kept") == 2
    assert (tmp_path / "study/evidence.md").read_text() == table


def test_a_wrong_arm_is_told_before_any_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    assert command(tmp_path, "study.arms.seva=['loss.beta=-1']") != 0
    assert logging.getLogger().handlers == handlers, "a program run in this process leaves its logging as it was"
    said = capsys.readouterr().err
    assert "arm seva" in said and "loss.beta=-1" in said
    assert not (tmp_path / "study/seva").exists()


def test_better_is_bold_only_when_the_interval_excludes_zero() -> None:
    def effect(low: float, high: float) -> dict[str, float]:
        middle = (low + high) / 2
        return {
            "before": 0.1, "after": 0.1 + middle, "change": middle, "change_low": low, "change_high": high,
            "relative": 10 * middle, "relative_low": 10 * low, "relative_high": 10 * high,
        }  # fmt: skip

    def row(low: float, high: float) -> str:
        arm = {"seeds": 1, "effects": {"chair_i": effect(low, high)}, "training": {"margin": 1.0}, "pairs": {"kept": 3}}
        text = markdown({"title": "t", "command": "c", "metric": "chair_i", "arms": {"a": arm}})
        return text.splitlines()[-1]

    assert "**10.00 → 7.00, -30.0 % [-40.0, -20.0]**" in row(-0.04, -0.02)
    assert "**" not in row(-0.04, 0.02) and "**" not in row(0.02, 0.04)


def test_a_table_goes_into_a_document_where_its_marks_are_and_replaces_the_last_one(tmp_path: Path) -> None:
    from parallax.reports.study import put_into

    document, picture = tmp_path / "results.md", tmp_path / "p.png"
    document.write_text("# Results\n\n<!-- study a -->\nold\n<!-- end a -->\n\nText.\n")
    picture.write_bytes(b"png")
    for table in ("first\n", "second\n"):
        put_into(document, "a", table, picture)
    text = document.read_text()
    assert text == "# Results\n\n<!-- study a -->\nsecond\n\n![a](images/a.png)\n<!-- end a -->\n\nText.\n"
    assert (tmp_path / "images/a.png").read_bytes() == b"png"
    with pytest.raises(ValueError, match="no place for the study b"):
        put_into(document, "b", "table", None)


STUDIES = sorted(path.stem for path in (ROOT / "conf/study").glob("*.yaml") if path.stem != "none")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_an_experiment_of_its_name_that_says_how_it_is_run(name: str) -> None:
    study = OmegaConf.load(ROOT / f"conf/study/{name}.yaml")
    assert study.command == f"python run.py experiment={name}"
    assert f"override /study: {name}" in (ROOT / f"conf/experiment/{name}.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_every_study_passes_the_check(name: str, compose_config: Callable[..., DictConfig]) -> None:
    for words in compose_config(f"experiment={name}").study.arms.values():
        assert find_problems(compose_config(f"experiment={name}", *words, "task=align")) == {}, words
