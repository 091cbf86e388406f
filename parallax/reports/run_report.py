"""`report.html`: one self-contained page that tells what a run did, whether it helped, and shows the pairs and answers.

Everything is read from the run folder, except pairs and images, which the caller hands over. All text that comes from
models, data, files or configuration is escaped by the template; the page holds no script and loads nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from parallax.evaluation.evaluation import Evaluation, EvaluationItem
from parallax.records import BadImage, ImageRef, PreferencePair, Sample
from parallax.records.atomic import atomic_write_text
from parallax.records.images import together
from parallax.reports import results as numbers
from parallax.reports.corrupted import OTHER_IMAGES, data_uri, looked_at, view_of
from parallax.reports.health import health_warnings
from parallax.reports.judge_notes import lines_of
from parallax.reports.method_words import highlights, method_in_words
from parallax.reports.metric_names import short_name, whole_name
from parallax.reports.metrics_csv import curve
from parallax.reports.model_eye import ModelEye
from parallax.reports.pages import page
from parallax.reports.pairs_table import evenly
from parallax.reports.run_folder import json_of, read_run
from parallax.reports.svg_curves import Line, curves
from parallax.reports.worddiff import Span, diff_words

log = logging.getLogger(__name__)

CHARTS = (  # title, keeps zero in view, (metric, legend) …
    ("Loss", False, (("train/loss", "loss"),)),
    (
        "Rewards",
        True,
        (
            ("train/rewards/chosen", "chosen"),
            ("train/rewards/rejected", "rejected"),
            ("train/rewards/margins", "margin"),
        ),
    ),
    ("Pairs ranked rightly", False, (("train/rewards/accuracies", "share of pairs"),)),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in the page."""

    uri: str
    caption: str


@dataclass(frozen=True, slots=True)
class PairCard:
    """One preference pair of the gallery."""

    pair: PreferencePair
    clean: Shown | None
    corrupted: list[Shown]
    chosen: list[Span]
    rejected: list[list[Span]]


@dataclass(frozen=True, slots=True)
class ExampleCard:
    """One evaluation question with the answer before and after."""

    item: EvaluationItem
    image: Shown | None
    before: list[Span]
    after: list[Span]
    trend: str  # "improved" or "worse"


def write_report(
    run_folder: Path | str,
    *,
    pairs: Sequence[PreferencePair] | Mapping[str, Sequence[PreferencePair]] = (),
    samples: Iterable[Sample] = (),
    before: Evaluation | None = None,
    after: Evaluation | None = None,
    warnings: Sequence[str] = (),
    title: str | None = None,
    max_pairs: int = 24,
    max_examples: int = 12,
) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
        run_folder: with what is there of config.yaml, environment.json, results.json, stages/*/metrics.csv (or
            metrics.csv) and stages/*/eval_before.json, eval_after.json.
        pairs: the run's preference pairs, or those of each stage by its name; `max_pairs` of them are shown.
        samples: evaluation samples, for the pictures of the examples.
        before, after: evaluations; read from the first and the last stage that has them when not given.
        warnings: sentences shown beside those found by `health.health_warnings`.
        title: of the page; the method and model by default.
        max_examples: evaluation examples of each trend (improved, worse).
    """
    folder = Path(run_folder)
    run = read_run(folder)
    config, rows = run.config, run.curves
    results = {**numbers.make_results(None, None), **run.results}
    before, after = before or run.evaluation("before"), after or run.evaluation("after")
    found = health_warnings(rows, results, [e for e in (after or before,) if e is not None])
    every = [pair for group in pairs.values() for pair in group] if isinstance(pairs, Mapping) else list(pairs)
    images = {sample.id: sample.image for sample in samples}
    eye = ModelEye.of(str((config.get("model") or {}).get("path") or ""))
    method = str(results.get("method") or (config.get("method") or {}).get("name") or "")
    model = str((config.get("model") or {}).get("name") or "")
    text = page(
        "report.html.j2",
        title=title or " · ".join(part for part in (method, model) if part) or folder.name,
        folder=str(folder),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        duration=_duration(float(results["seconds"])),
        words=method_in_words(config, results),
        highlights=highlights(config),
        tiles=_tiles(results),
        table=_table(results),
        paired=any(metric["value"] is not None for metric in results["difference"].values()),
        charts=list(_charts(rows)),
        warnings=list(dict.fromkeys([*warnings, *found])),
        cards=list(_cards(evenly(every, max_pairs), eye)),
        lines_of=lines_of,
        pair_total=len(every),
        examples=list(_examples(before, after, images, max_examples)),
        results=results,
        config_text=(folder / "config.yaml").read_text("utf-8") if (folder / "config.yaml").is_file() else "",
        environment=json_of(folder / "environment.json"),
    )
    path = folder / "report.html"
    atomic_write_text(path, text)
    return path


def _duration(seconds: float) -> str:
    """`45 s`, `12.5 min`, `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _tiles(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline metrics that were measured, large."""
    tiles = []
    for name in numbers.HEADLINE:
        old, new, change = (
            numbers.metric_of((results.get(side) or {}).get(name)) for side in ("before", "after", "difference")
        )
        shown = new if new.value is not None else old
        if shown.value is None:
            continue
        tiles.append(
            {
                "name": short_name(name),
                "value": f"{100 * shown.value:.1f}",
                "before": f"{100 * old.value:.1f}" if old.value is not None and new.value is not None else "",
                "change": numbers.show_parts(change, points=True) if change.value is not None else ("", ""),
                "verdict": numbers.verdict(name, change),
                "arrow": numbers.arrow(name, change),
                "wants": {1: "higher is better", -1: "lower is better", 0: ""}[numbers.direction(name)],
            }
        )
    return tiles


def _table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every measured metric with what a row of the table and its small picture need (positions in per cent)."""
    rows = []
    for name in numbers.metric_order({"before": results.get("before") or {}, "after": results.get("after") or {}}):
        sides = {s: numbers.metric_of((results.get(s) or {}).get(name)) for s in ("before", "after", "difference")}
        bars = []
        for side in ("before", "after"):
            metric = sides[side]
            if metric.value is not None and numbers.is_share(name):
                low, high = (metric.value if edge is None else edge for edge in (metric.low, metric.high))
                places = {"at": metric.value, "low": low, "high": high}
                bars.append({"side": side, **{key: round(100 * min(max(x, 0), 1), 2) for key, x in places.items()}})
        rows.append(
            {
                "name": whole_name(name),
                "headline": name in numbers.HEADLINE,
                "minor": numbers.is_minor(name),
                "before": numbers.show_parts(sides["before"], name=name),
                "after": numbers.show_parts(sides["after"], name=name),
                "change": numbers.show_parts(sides["difference"], points=True, name=name),
                "verdict": numbers.verdict(name, sides["difference"]),
                "arrow": numbers.arrow(name, sides["difference"]) if sides["difference"].value is not None else "",
                "bars": bars,
            }
        )
    return rows


def _charts(rows: Mapping[str, Sequence[Mapping[str, str]]]) -> Iterable[dict[str, Any]]:
    for stage, logged in rows.items():
        for title, zero, wanted in CHARTS:
            lines = [Line(label, *curve(logged, metric), colour=i + 1) for i, (metric, label) in enumerate(wanted)]
            lines = [line for line in lines if line.steps]
            picture = curves(title, lines, zero=zero)
            if picture is not None:
                heading = f"{title}, stage {stage}" if stage and len(rows) > 1 else title
                yield {"title": heading, "svg": picture, "legend": lines if len(lines) > 1 else []}


def _cards(pairs: Sequence[PreferencePair], eye: ModelEye) -> Iterable[PairCard]:
    for pair in pairs:
        clean, corrupted = None, []
        try:
            image = together(pair.images)
            clean = Shown(data_uri(image.load()), "clean")
            if pair.rejected_images:
                corrupted.append(Shown(data_uri(together(pair.rejected_images).load()), OTHER_IMAGES))
            for response in pair.rejected[:4]:
                view = view_of(response)
                if view is not None:
                    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in view.params.items())
                    corrupted.append(
                        Shown(data_uri(looked_at(image, view, eye), side=336), f"{view.name} {settings}".strip())
                    )
        except (BadImage, ValueError) as error:
            log.warning("a picture of pair %s is missing from the report: %s", pair.sample_id, error)
        chosen, _ = diff_words(pair.chosen.text, pair.rejected[0].text)
        rejected = [diff_words(pair.chosen.text, response.text)[1] for response in pair.rejected]
        yield PairCard(pair, clean, corrupted, chosen, rejected)


def _examples(
    before: Evaluation | None, after: Evaluation | None, images: Mapping[str, ImageRef], limit: int
) -> Iterable[ExampleCard]:
    if before is None or after is None:
        return
    old = {item.key: item for item in before.items}
    trends: dict[str, list[tuple[EvaluationItem, EvaluationItem]]] = {"improved": [], "worse": []}
    for item in after.items:
        first = old.get(item.key)
        if first is not None and (step := _goodness(item) - _goodness(first)):
            trends["improved" if step > 0 else "worse"].append((first, item))
    for trend, found in trends.items():
        for first, item in evenly(found, limit):
            left, right = diff_words(first.answer, item.answer)
            yield ExampleCard(item, _picture(images.get(item.sample_id)), left, right, trend)


def _goodness(item: EvaluationItem) -> float:
    """How good an answer is by its suite's first metric; more is better."""
    name = next(iter(item.scores), None)
    return numbers.direction(name) * item.scores[name][0] if name is not None else 0.0


def _picture(image: ImageRef | None) -> Shown | None:
    if image is None:
        return None
    try:
        return Shown(data_uri(image.load(), side=160), image.describe())
    except BadImage:
        return None
