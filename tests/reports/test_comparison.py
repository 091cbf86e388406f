"""Runs side by side: what differed, which is best and how clearly, on the screen, in the CSV file and in the page."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parallax.reports.comparison import compare_runs
from parallax.reports.comparison_answers import BASE, most_telling, questions_of
from parallax.reports.comparison_numbers import compare
from parallax.reports.comparison_table import print_comparison
from parallax.reports.pages import json_text
from parallax.reports.run_folder import find_runs, read_run
from parallax.reports.what_differs import ABSENT, settings_that_differ, shortened
from tests.faults import Injected
from tests.reports.run_folders import SHAPES, write_grid, write_run

EVIL = "</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("multirun"))


def printed(folders: list[Path], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(compare(find_runs(folders)), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_runs_are_found_below_a_folder_in_the_order_of_their_numbers_and_once_each(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        write_run(tmp_path / "many" / str(number), {}, 3)
    names = [folder.name for folder in find_runs([tmp_path, tmp_path / "many" / "2", str(tmp_path / "many" / "*")])]
    assert names == ["0", "2", "10"]
    assert [folder.name for folder in find_runs([str(tmp_path / "many" / "1*")])] == ["10"]
    with pytest.raises(FileNotFoundError, match="nowhere is not there"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no run"):
        find_runs([tmp_path / "empty"])
    assert (
        len(find_runs([tmp_path / "empty", tmp_path / "many"])) == 3
    )  # a job that failed before it began costs nothing


def test_what_was_typed_speaks_for_the_keys_that_follow_it(grid: Path) -> None:
    settings = settings_that_differ([read_run(folder) for folder in find_runs([grid])])
    assert [setting.key for setting in settings] == ["loss.beta", "aug.noise_steps"]
    assert [setting.short for setting in settings] == ["beta", "noise_steps"]
    by_key = {setting.key: setting for setting in settings}
    assert by_key["aug.noise_steps"].levels == [200, 500, 800] and by_key["aug.noise_steps"].numeric
    assert by_key["aug.noise_steps"].along == ("stages.align.proposer.view.noise_steps",)  # said, not shown twice


def test_the_choice_of_a_group_speaks_for_its_keys_and_a_lacking_key_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {}, 3)
    write_run(
        tmp_path / "b", {"loss._target_": "Stic", "loss.alpha": 0.5, "seed": 7}, 3, typed=("seed=7",), loss="stic"
    )
    settings = settings_that_differ([read_run(folder) for folder in find_runs([tmp_path])])
    assert [(setting.key, setting.values) for setting in settings] == [
        ("seed", (0, 7))
    ]  # these two cannot tell them apart
    assert set(settings[0].along) == {"loss", "loss._target_", "loss.alpha"}
    write_run(tmp_path / "c", {"seed": 8}, 3, typed=("seed=8",))
    settings = settings_that_differ([read_run(folder) for folder in find_runs([tmp_path])])
    assert {setting.key: setting.values for setting in settings} == {"loss": ("dpo", "stic", "dpo"), "seed": (0, 7, 8)}
    alone = [read_run(tmp_path / name) for name in ("a", "b")]
    for run in alone:
        run.chosen, run.typed = {}, ("loss.alpha",)
    assert settings_that_differ(alone)[0].values == (ABSENT, 0.5)


def test_keys_are_shortened_only_as_far_as_they_stay_apart() -> None:
    assert shortened(["loss.beta", "a.optim.lr", "b.optim.lr", "seed"]) == {
        "loss.beta": "beta", "a.optim.lr": "a.optim.lr", "b.optim.lr": "b.optim.lr", "seed": "seed",
    }  # fmt: skip


def test_the_best_is_marked_and_so_are_those_that_cannot_be_told_from_it(grid: Path) -> None:
    comparison = compare(find_runs([grid]))
    by_label = {run.label: run for run in comparison.runs}
    best = by_label["beta=0.1 noise_steps=500"]
    assert best.best == {"chair_i", "recall", "accuracy"} and best.metrics["chair_i"].value == pytest.approx(1 / 60)
    near, far = by_label["beta=0.05 noise_steps=500"], by_label["beta=0.3 noise_steps=800"]
    assert "chair_i" in near.near and "chair_i" not in far.near | far.best  # 2 wrong of 30 against 13
    assert best.changes["chair_i"].value == pytest.approx(-14 / 60)
    assert best.pairs == (99, 1) and best.training["margin"] == pytest.approx(0.065 * 29)


def test_no_best_is_named_where_all_are_alike_or_there_is_only_one(tmp_path: Path) -> None:
    write_run(tmp_path / "0", {"seed": 0}, 4)
    assert not compare(find_runs([tmp_path])).runs[0].best
    write_run(tmp_path / "1", {"seed": 1}, 4)
    assert not any(run.best or run.near for run in compare(find_runs([tmp_path])).runs)


def test_the_table_fits_the_window_and_says_what_it_left_out(grid: Path) -> None:
    wide, narrow = printed([grid], 160), printed([grid], 50)
    assert max(map(len, narrow.splitlines())) <= 50 and max(map(len, wide.splitlines())) <= 160
    row = next(line for line in wide.splitlines() if " 500 " in line and " 0.1 " in line)
    assert re.search(r"1\.7 % \[0\.0, \d\.\d\] ★", row) and "99" in row
    assert "No room here for" in narrow and "No room here" not in wide
    assert "≈ not clearly worse than the best" in wide and "partly luck" in wide


def test_a_run_without_results_is_listed_with_its_reason(grid: Path, tmp_path: Path) -> None:
    failed = write_run(tmp_path / "failed", {"loss.beta": 7.0}, 3, typed=("loss.beta=7.0",))
    (failed / "results.json").unlink()
    (failed / "run.log").write_text("12:00 INFO fine\nTraceback …\n  File x\nValueError: β is far too large\n")
    broken = write_run(tmp_path / "broken", {}, 3)
    (broken / "results.json").write_text("{")
    said = printed([grid, failed, broken], 160)
    assert "β is far too large" in said and "it cannot be read" in said
    page = compare_runs([grid, tmp_path], tmp_path / "out").read_text()
    assert "β is far too large" in page and "no results" in page
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert len(rows) == 11 and rows[-1]["problem"] and not rows[0]["problem"]


def test_the_csv_file_has_every_number(grid: Path, tmp_path: Path) -> None:
    compare_runs([grid], tmp_path)
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    best = next(row for row in rows if row["chair_i/best"] == "best")
    assert (best["aug.noise_steps"], best["loss.beta"], best["pairs/kept"]) == ("500", "0.1", "99")
    assert float(best["chair_i/low"]) <= float(best["chair_i"]) <= float(best["chair_i/high"])
    assert float(best["chair_i/change"]) == pytest.approx(-14 / 60)


def test_the_page_is_one_file_with_tables_curves_and_answers(grid: Path, tmp_path: Path) -> None:
    html = compare_runs([grid], tmp_path / "new" / "folder").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](https?:|//)", html) and "<link" not in html
    assert "default-src 'none'" in html and "script-src 'sha256-" in html
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])  # type: ignore[index]
    assert [curve["name"] for curve in data["curves"]] == ["train/rewards/margins", "train/loss"]
    assert len(data["curves"][0]["lines"]) == 9 and len(data["curves"][0]["lines"][0]["x"]) == 8
    assert len(data["images"]) > 1 and all(uri.startswith("data:image/") for uri in data["images"])
    said = data["answers"][0]
    assert said["disagree"] and sorted(run for group in said["groups"] for run in group["runs"]) == [BASE, *range(9)]
    assert all(run["link"].endswith("report.html") for run in data["runs"])


def test_equal_answers_stand_together_and_disagreement_comes_first(grid: Path) -> None:
    questions = questions_of(compare(find_runs([grid])).runs)
    assert len(questions) == 60 and sum(asked.disagree for asked in questions) == 24  # items 1 to 12 of both suites
    few = most_telling(questions, 10)
    assert len(few) == 10 and all(asked.disagree for asked in few)
    assert {asked.item.suite for asked in few} == {"chair", "accuracy"}
    chair = next(asked for asked in few if asked.item.suite == "chair")
    assert chair.texts == ["a red circle and a ghost", "a red circle"]  # as before training, then the others


def test_hostile_settings_names_and_answers_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"data.path": EVIL}, 3, typed=("data.path=x",))
    write_run(tmp_path / f"b{EVIL.replace('/', '')}", {"data.path": "fine"}, 5, typed=("data.path=y",))
    path = tmp_path / "a" / "stages" / "align" / "eval_after.json"
    path.write_text(path.read_text().replace("a ghost", f"a {EVIL}"))
    html = compare_runs([tmp_path], tmp_path / "out").read_text()
    assert "<img src=x" not in html and html.count("</script>") == 2
    assert json.loads(json_text({"a": f"{EVIL}\u2028&", "b": float("nan")})) == {"a": f"{EVIL}\u2028&", "b": None}
    assert "<" not in json_text(EVIL)


@pytest.mark.parametrize(
    "planted",
    [
        {"_target_": "os.mkdir", "path": "HERE"},
        {"_target_": "parallax.records.atomic.atomic_write_text", "path": "HERE", "text": "ran"},
        {**SHAPES, "split": {"_target_": "parallax.records.atomic.atomic_write_text", "path": "HERE", "text": "ran"}},
        {**SHAPES, "_args_": [{"_target_": "pathlib.Path.write_text", "_args_": ["HERE", "ran"]}]},
        {"_target_": "parallax.evaluation.harnesses.LmmsEval", "python": "HERE", "tasks": ["x"]},
        {"_target_": "augment.view.Identity"},
    ],
    ids=["of others", "of ours", "in an argument", "unnamed", "a harness", "a view"],
)
def test_looking_at_a_run_folder_runs_nothing_it_names(
    planted: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, injected: Injected
) -> None:
    node = json.loads(json.dumps(planted).replace("HERE", str(tmp_path / "x")))
    for name in ("a", "b"):
        write_run(tmp_path / name, {"evaluation.suites.chair.samples": node}, 3)
    html = compare_runs([tmp_path], tmp_path / "out").read_text()
    assert not (tmp_path / "x").exists() and "would not pass the check" in caplog.text
    assert "The same questions" in html
    injected(
        "attack: run folder whose configuration names code",
        told=1,
        says="looked at without its pictures; nothing was run",
    )


def test_pictures_show_each_metric_against_each_numeric_setting(grid: Path, tmp_path: Path) -> None:
    from PIL import Image

    compare_runs([grid], tmp_path, pictures=True)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["compare_beta.png", "compare_noise_steps.png"]
    with Image.open(tmp_path / "compare_beta.png") as image:
        assert image.width > 2 * image.height  # three panels side by side


def test_only_runs_are_compared_and_only_what_was_measured_on_the_same_items_is_ranked(tmp_path: Path) -> None:
    for number, wrong in enumerate((3, 6, 9)):
        write_run(tmp_path / str(number), {"seed": number}, wrong, typed=(f"seed={number}",))
    write_run(tmp_path / "other", {"seed": 4}, 0, typed=("seed=4",))  # no mistake at all, on half of the questions
    for path in (tmp_path / "other").glob("stages/align/eval_*.json"):
        told = json.loads(path.read_text())
        told["items"] = told["items"][:30]
        path.write_text(json.dumps(told))
    write_run(tmp_path / "sheet", {"task": {"name": "show_views"}}, 0)
    comparison = compare(find_runs([tmp_path]))
    assert [run.name for run in comparison.runs] == ["0", "1", "2", "other"]
    assert [run.name for run in comparison.runs if "chair_i" in run.best] == ["0"]
    for width in (80, 200):
        said = " ".join(printed([tmp_path], width).split())
        assert "CHAIR-i of other was measured on other items and is not ranked." in said
        assert "1 folder is left out: made by show_views, no runs that measure anything." in said
        assert said.index("CHAIR-i") < said.index("Accuracy") < said.rindex(" seed ")


def test_names_and_metrics_are_there_at_any_width(tmp_path: Path) -> None:
    long = "a_very_long_name_of_an_experiment_" * 3
    for number in range(2):
        write_run(tmp_path / f"{long}{number}", {"seed": number, "loss.beta": 0.1 + number}, number)
    for width in (60, 80, 120):
        said = printed([tmp_path], width)
        assert "CHAIR-i" in said and "experiment_0" in said and "experiment_1" in said
        assert max(map(len, said.splitlines()[:6])) <= width


ODD = {
    "no mapping": "[1, 2]", "no JSON": "{", "deep": '{"after": ' * 900 + "1" + "}" * 900, "null sides": '{"after": null}',
    "texts": '{"after": {"chair_i": {"value": "high", "low": 0, "high": 1}}}', "a list": '{"after": {"chair_i": [1]}}',
    "missing parts": '{"after": {"chair_i": {"value": 0.5}}}', "odd pairs": '{"pairs": {"kept": "many", "dropped": {"a": []}}}',
    "infinite": '{"after": {"chair_i": {"value": 1e999, "low": NaN, "high": null, "n": 3}}}', "pairs a list": '{"pairs": [1]}',
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_one_odd_run_costs_the_comparison_only_itself(what: str, tmp_path: Path, injected: Injected) -> None:
    for name in ("a", "b", "odd"):
        write_run(tmp_path / name, {"loss.beta": {"a": 0.1, "b": 0.2}.get(name, 0.3)}, 3)
    (tmp_path / "odd" / "results.json").write_text(ODD[what])
    (tmp_path / "odd" / "stages" / "align" / "metrics.csv").write_bytes(b"step,\xff\xfe\n1,2\n")
    compare_runs([tmp_path], tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text("utf-8"))))
    assert len(rows) == 3 and float(rows[0]["chair_i"]) == float(rows[1]["chair_i"])
    injected("attack: odd results.json and metrics.csv among others", told=1, says="the others are compared")


def test_names_and_settings_reach_terminal_and_spreadsheet_as_text(tmp_path: Path) -> None:
    for name, said in (("a", "=1+2"), ("b", "\x1b[2J\x1b]0;owned\x07"), ("c", "@SUM(A1)")):
        write_run(tmp_path / f"{name}\x1b[31m", {"data.path": said}, 3, typed=("data.path=x",))
    compare_runs([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "compare.csv").read_text("utf-8")
    assert "\x1b" not in text and "\x07" not in text
    assert {row["data.path"][0] for row in csv.DictReader(io.StringIO(text))} <= {"'", "\\"}
    screen = io.StringIO()
    print_comparison(compare([tmp_path / f"{name}\x1b[31m" for name in "abc"]), Console(file=screen, width=160))
    assert "\x1b" not in screen.getvalue() and r"\x1b[2J" in screen.getvalue()
