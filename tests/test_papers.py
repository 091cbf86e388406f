"""docs/papers.md: what is typed for each line of the papers' tables is accepted, and the page is made from its files."""

import json
import shlex
import sys

import pytest
from omegaconf import OmegaConf

from parallax.settings.command_line import compose_checked
from parallax.settings.comments import CONF
from parallax.settings.errors import ConfigError

sys.path.insert(0, str(CONF.parent / "docs"))
import make_papers

TABLES = OmegaConf.to_container(OmegaConf.load(make_papers.TABLES))
ROWS = [row for table in TABLES["tables"] for row in table["rows"]]


QUICK = ("llava15_7b", "seva_llava15_7b_moco", "stic_llava15_7b")


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row["id"], marks=[] if row["id"] in QUICK else pytest.mark.slow) for row in ROWS]
)
def test_only_files_are_missing_from_what_is_typed_for_a_line(row: dict) -> None:
    for command in make_papers.commands(row):
        with pytest.raises(ConfigError) as found:
            compose_checked(shlex.split(command)[2:])
        told = [problem for problem in found.value.problems if "does not exist" not in problem]
        assert all(problem.startswith(("evaluation.judge.url", "adapter=")) for problem in told), told


def test_every_line_has_a_number_for_each_benchmark_and_a_name_of_its_own() -> None:
    for table in TABLES["tables"]:
        assert all(len(row["paper"]) == len(table["benchmarks"]) for row in table["rows"])
        assert set(table["benchmarks"]) <= set(TABLES["benchmarks"])
    assert len({row["id"] for row in ROWS}) == len(ROWS)


def test_a_result_that_was_added_stands_in_its_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(make_papers, "RESULTS", tmp_path)
    measured = {
        "before": {"pope_accuracy": {"value": 0.85}},
        "after": {"pope_accuracy": {"value": 0.8671}, "chair_s": {"value": None}},
    }
    (tmp_path / "seva_llava15_7b.json").write_text(json.dumps(measured))
    metrics = [TABLES["benchmarks"][name] for name in ("POPE", "CHAIR-s", "MM-Vet")]
    assert make_papers._ours("seva_llava15_7b", metrics) == ["86.71", "–", "–"]
    assert make_papers._ours("llava15_7b", metrics) == ["–", "–", "–"]


@pytest.mark.slow
def test_the_page_is_up_to_date() -> None:
    assert make_papers.PAGE.read_text(encoding="utf-8") == make_papers.page(), "run `python docs/make_papers.py`"
