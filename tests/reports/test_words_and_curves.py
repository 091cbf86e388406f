"""Small parts of the reports: differing words, curves, the metrics file, warnings, the log, the environment."""

import json
import logging
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallax.evaluation import Metric
from parallax.reports.environment import REDACTED, environment, git_state, without_secrets, write_environment
from parallax.reports.health import health_warnings
from parallax.reports.method_words import highlights, method_in_words
from parallax.reports.metrics_csv import MetricsCsv, curve, late_mean, read_metrics
from parallax.reports.pairs_table import evenly
from parallax.reports.plots import figure, save, with_intervals
from parallax.reports.progress import answer_progress
from parallax.reports.results import flat_metrics, make_results
from parallax.reports.run_log import run_log
from parallax.reports.svg_curves import Line, curves, nice_ticks
from parallax.reports.worddiff import diff_words, marked_text


def test_differing_words_are_marked_on_both_sides() -> None:
    left, right = diff_words("a red circle and a star", "a blue circle and two stars")
    assert marked_text(left) == "a ⟦red⟧ circle and ⟦a star⟧"
    assert marked_text(right) == "a ⟦blue⟧ circle and ⟦two stars⟧"
    assert marked_text(diff_words("same  text", "same  text")[0]) == "same  text"


@given(st.text(), st.text())
def test_marking_loses_nothing_and_marks_nothing_in_equal_texts(left: str, right: str) -> None:
    ours, theirs = diff_words(left, right)
    assert "".join(s.text for s in ours) == left and "".join(s.text for s in theirs) == right
    assert not any(span.differs for span in diff_words(left, left)[0])


def test_even_picking_spreads_over_everything_and_keeps_the_order() -> None:
    assert evenly(range(10), 3) == [0, 3, 6] and evenly([1, 2], 5) == [1, 2] and evenly([], 2) == []


class Counter(HTMLParser):
    """Counts tags and collects polyline points."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.points: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.points += [value or "" for name, value in attrs if name == "points"]


def test_a_chart_draws_finite_points_inside_its_frame() -> None:
    svg = curves("Loss & <more>", [Line("loss", [1, 2, 3, 4], [0.7, math.nan, 0.5, -0.1])], zero=True)
    assert svg is not None and "<more>" not in svg
    parsed = Counter()
    parsed.feed(svg)
    (points,) = parsed.points
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(places) == 3 and all(0 <= x <= 460 and 0 <= y <= 230 for x, y in places)
    assert places[0][1] < places[1][1] < places[2][1]  # falling values go down the page
    assert curves("empty", [Line("loss", [], []), Line("bad", [1], [math.inf])]) is None


def test_long_curves_are_thinned_and_keep_both_ends() -> None:
    svg = curves("long", [Line("loss", range(100_000), [float(i) for i in range(100_000)])])
    parsed = Counter()
    parsed.feed(str(svg))
    assert len(parsed.points[0].split()) == 400 and parsed.points[0].startswith("52.0,")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.25, 1.4), (3, 3), (0, 0), (1e-6, 5e-6), (-1000, 2500)])
def test_ticks_are_few_round_and_cover_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and ticks[0] <= low and ticks[-1] >= high


def test_metrics_are_rows_of_a_csv_with_columns_as_they_come(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path)
    logger.log_metrics({"train/loss": 0.7}, 1)
    logger.log_metrics({"train/loss": 0.6}, 2)
    logger.log_metrics({"train/lr": 1e-4}, 2)
    logger.log_metrics({"eval/chair_i": 0.1}, 3)
    assert logger.path.read_text().splitlines() == [
        "step,train/loss,train/lr,eval/chair_i", "1,0.7,,", "2,0.6,0.0001,", "3,,,0.1",
    ]  # fmt: skip
    assert curve(read_metrics(logger.path), "train/loss") == ([1, 2], [0.7, 0.6])


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path: Path) -> None:
    crashed = MetricsCsv(tmp_path)
    for step in range(1, 6):
        crashed.log_metrics({"train/loss": float(step)}, step)
    with crashed.path.open("a") as file:
        file.write("6,6.")  # torn while writing
    resumed = MetricsCsv(tmp_path)
    for step in range(4, 8):
        resumed.log_metrics({"train/loss": 10.0 * step}, step)
    assert curve(read_metrics(resumed.path), "train/loss") == ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 40, 50, 60, 70])
    assert read_metrics(tmp_path / "none.csv") == []


def rows(name: str, values: list[float]) -> list[dict[str, str]]:
    return [{"step": str(i), name: repr(value)} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("curves_", "results", "expected"),
    [
        (rows("train/rewards/chosen", [0.0, 0.1, -0.3, -0.4]), {}, "fell below zero"),
        (rows("train/rewards/chosen", [-0.1, 0.1, 0.3, 0.4]), {}, None),
        (rows("train/loss", [0.7, math.nan]), {}, "not finite"),
        (rows("train/rewards/margins", [0.0] * 10), {}, "did not move"),
        ([], {"pairs": {"kept": 10, "dropped": {"equal": 80, "empty": 1}}}, "81 of 91 samples gave no pair, 80"),
        ([], {"pairs": {"kept": 10, "dropped": {"equal": 5}}}, None),
        ([], {"difference": {"recall": {"value": -0.1, "low": -0.2, "high": -0.05}}}, "fewer of the objects"),
        ([], {"difference": {"recall": {"value": -0.1, "low": -0.2, "high": 0.05}}}, None),
    ],
)
def test_known_troubles_are_said_in_words(
    curves_: list[dict[str, str]], results: dict[str, object], expected: str | None
) -> None:
    said = health_warnings({"align": curves_}, results)
    assert (expected is None and said == []) or (len(said) == 1 and str(expected) in said[0])


def test_the_method_is_told_in_words_with_its_numbers() -> None:
    config = {
        "method": {"name": "seva"}, "aug": {"_target_": "augment.diffusion.Diffusion", "noise_steps": 500},
        "loss": {"_target_": "lightning_modules.objectives.DPO", "beta": 0.1}, "lora": {"enabled": True, "r": 8},
    }  # fmt: skip
    words = " ".join(method_in_words(config, {"pairs": {"kept": 12}, "steps": 3}))
    assert "step 500 of 1000" in words and "12 pairs" in words and "β = 0.1 in 3 steps" in words and "rank 8" in words
    assert ("noise steps", "500") in highlights(config) and highlights({}) == []
    assert "new_idea" in " ".join(method_in_words({"method": {"name": "new_idea"}}, {}))
    flipped = {"method": {"name": "seva"}, "aug": {"_target_": "augment.geometric.RandomFlip"}}
    assert "in half of the cases mirrored" in method_in_words(flipped, {})[0]
    blurred = {"method": {"name": "seva"}, "aug": {"_target_": "augment.colour.GaussianBlur"}}
    assert "(gaussian_blur)" in method_in_words(blurred, {})[0]


def test_the_log_holds_our_records_and_keeps_others_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with run_log(tmp_path) as path:
        logging.getLogger("parallax.test").info("we say [bold]this[/bold]")
        logging.getLogger("parallax.test").debug("only in the file")
        logging.getLogger("transformers.modeling").warning("chatter")
        logging.getLogger("a_library").info("chatter for each request")
        logging.getLogger("a_library").warning("something is wrong there")
    text, screen = path.read_text(), "".join(capfd.readouterr())
    assert "we say [bold]this[/bold]" in text and "only in the file" in text and "chatter" not in text
    assert "something is wrong there" in text and "something is wrong there" in screen and "chatter" not in screen
    assert "[bold]this[/bold]" in screen and "only in the file" not in screen
    assert (list(root.handlers), root.level) == before


def test_the_environment_says_what_ran_and_hides_secrets(tmp_path: Path) -> None:
    config = {
        "hub_token": "hf_123",
        "wandb": {"api_key": "k"},
        "generation": {"max_new_tokens": 5},
        "list": [{"password": "p"}],
    }
    facts = write_environment(tmp_path, config)
    text = (tmp_path / "config.yaml").read_text()
    assert "hf_123" not in text and "max_new_tokens: 5" in text and text.count(REDACTED) == 3
    assert json.loads((tmp_path / "environment.json").read_text()) == facts
    assert "torch" in facts["packages"] and set(facts["git"]) == {"commit", "dirty"}
    assert without_secrets({"token": None, "api_key": ""}) == {"token": None, "api_key": ""}
    assert git_state(tmp_path) == {"commit": None, "dirty": None}


def test_secrets_on_the_command_line_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", "export.hub_token=hf_123", "loss.beta=0.1"])
    assert environment()["command"] == ["run.py", f"export.hub_token={REDACTED}", "loss.beta=0.1"]


def test_plots_share_a_style_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.svg"):
        with figure() as (fig, axes):
            with_intervals(axes, [1, 2], [Metric(0.1, 0.05, 0.2, 9), Metric(None, None, None, 0)], label="chair")
            save(fig, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_progress_counts_answers() -> None:
    with answer_progress("evaluating", 10, shown=False) as done:
        done(4)
        done(6)


def test_curves_of_several_stages_survive_a_resume_and_the_sums_stand_beside_the_last_step(tmp_path: Path) -> None:
    def log(logger: MetricsCsv, stage: str, steps: range) -> None:
        logger.begin(stage)
        for step in steps:
            logger.log_metrics({"train/loss": 10.0 * len(stage) + step}, step)

    whole, cut = MetricsCsv(tmp_path / "whole"), MetricsCsv(tmp_path / "cut")
    for logger in (whole, cut):
        log(logger, "align", range(3))
    log(whole, "infuse", range(4))
    log(cut, "infuse", range(3))  # killed after three steps; the checkpoint is of the second
    log(MetricsCsv(tmp_path / "cut"), "infuse", range(2, 4))
    whole.log_metrics({"eval/recall": 0.5})
    MetricsCsv(tmp_path / "cut").log_metrics({"eval/recall": 0.5})  # a third process only sums up
    assert read_metrics(tmp_path / "cut" / "metrics.csv") == read_metrics(tmp_path / "whole" / "metrics.csv")
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    steps = [*(("align", str(n)) for n in range(3)), *(("infuse", str(n)) for n in range(4))]
    assert [(row["stage"], row["step"]) for row in rows] == steps
    assert rows[-1]["eval/recall"] == "0.5"


def test_a_runs_margin_is_the_mean_of_its_last_quarter_everywhere() -> None:
    rows = [
        {"step": str(step), "train/rewards/margins": str(value)} for step, value in enumerate((0, 9, 1, 1, 2, 3, 4, 6))
    ]
    late = late_mean(rows, "train/rewards/margins")
    assert late == 5.0 and late_mean(rows, "train/loss") is None
    rows[-1]["train/rewards/margins"] = "nan"  # a step that was left out
    assert late_mean(rows, "train/rewards/margins") == 4.0
    results = make_results(
        None, None, stages={"align": {"late_margin": late, "metrics": {"train/rewards/margins": 6.0}}}
    )
    assert flat_metrics(results)["margin"] == 5.0
