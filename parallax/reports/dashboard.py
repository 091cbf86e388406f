"""`task=dashboard`: the W&B workspace and report of the project, built with the package `wandb-workspaces`.

    workspace   results of all runs, each setting against each metric, parallel coordinates, curves, tables
    report      the same as a document: a chapter a setting (noise step, LoRA rank, beta), each with what the setting means

Both name only what runs log: `eval/…`, `margin` and `pairs/…` of the summary, `train/…` against `trainer/global_step`, the nested
configuration, the tables `pairs` and `examples`. Nothing here asks the network; `parallax.tasks.dashboard` writes and saves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from parallax.reports.method_words import setting_name
from parallax.reports.metric_names import direction, short_name
from parallax.reports.wandb_run import AXIS
from parallax.settings.comments import meaning_of
from parallax.settings.places import COMMAND

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

TITLE = "What the settings do"
LOGARITHMIC = ("loss.beta", "loss.alpha", "lora.r", "optim.lr", "pairs.num_negatives")  # settings whose grids double
CURVES = {  # title → what one panel of training curves shows
    "Loss": ("train/loss",),
    "Reward margin": ("train/rewards/margins",),
    "Share of pairs with the chosen answer ahead": ("train/rewards/accuracies",),
    "Log-probs of chosen and rejected": ("train/logps/chosen", "train/logps/rejected"),
}
ALWAYS = ("margin", "pairs/kept")  # beside the metrics of the evaluation
WIDE = 24  # of the grid of a report, in its columns
LABELS = {"margin": "Reward margin", "pairs/kept": "Pairs kept"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a dashboard is about.

    Args:
        project: W&B's project; entity: its user or team, "" for the key's own.
        metrics: summary metrics, the most important first, such as `eval/chair_i`.
        settings: dotted configuration keys, such as `aug.noise_steps`.
        tables: keys of W&B tables, such as `pairs`.
        group: only runs of this W&B group; None for all of the project.
    """

    project: str
    entity: str
    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    tables: tuple[str, ...] = ("pairs", "examples")
    group: str | None = None


def build_workspace(wanted: Wanted) -> Workspace:
    """The workspace: what one looks at while a sweep runs."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    first = wanted.metrics[0]
    sections = [
        ("Results", _results(wanted), 3),
        *((setting, _scatter(setting, wanted), 3) for setting in wanted.settings),
        ("All settings at once", _together(wanted), 1),
        ("Training", _curves(wanted), 2),
        ("Pairs and answers", _tables(wanted), 1),
    ]
    return ws.Workspace(
        entity=wanted.entity,
        project=wanted.project,
        name=TITLE,
        sections=[
            ws.Section(
                name=name, panels=panels, is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=columns, rows=math.ceil(len(panels) / columns)),
            )
            for name, panels, columns in sections
        ],
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group") == wanted.group] if wanted.group else "",
            order=[expr.Ordering(expr.Summary(first), ascending=direction(first) < 0)],
            pinned_columns=[
                "run:displayName",
                *(column(setting) for setting in wanted.settings),
                *(f"summary:{metric}" for metric in (*wanted.metrics, *ALWAYS)),
            ],
        ),
    )  # fmt: skip


def build_report(wanted: Wanted, plain: Mapping[str, Any]) -> Report:
    """The report: the same panels with words between them.

    Args:
        plain: a composed configuration, for what the settings mean.
    """
    import wandb_workspaces.reports.v2 as wr

    def chapter(title: str, words: str, panels: list[Any]) -> list[Any]:
        return [wr.H2(title), *([wr.P(words)] if words else []), _grid(wanted, panels)]

    told = {setting: meaning_of(setting, dict(plain)) for setting in wanted.settings}
    names = ", ".join(
        f"{label(name)} ({'less' if direction(name) < 0 else 'more'} is better)" for name in wanted.metrics
    )
    first = label(wanted.metrics[0])
    rows = "Words between ⟦ and ⟧ are those the other answer does not have."
    chapters = [
        chapter("Results", f"Measured after training: {names}.", _results(wanted)),
        *(chapter(setting_name(key), f"{key}: {told[key]}." if told[key] else "", _scatter(key, wanted)) for key in told),
        chapter("All settings at once", f"A line is a run. Below: how much each setting says about {first}.",
                _together(wanted)),
        chapter("Training", "Runs of one stage; a run of several has the same curves below each stage's name.",
                _curves(wanted)),
        chapter("Pairs and answers", rows, _tables(wanted)),
    ]  # fmt: skip
    return wr.Report(
        project=wanted.project,
        entity=wanted.entity,
        title=f"{wanted.project}: {TITLE[0].lower()}{TITLE[1:]}",
        description=f"Written by `{COMMAND} task=dashboard`.",
        blocks=[wr.TableOfContents(), *chain.from_iterable(chapters)],
        width="fluid",
    )


def column(setting: str) -> str:
    """A configuration key as W&B names it: `aug.noise_steps` is `config:aug.value.noise_steps`."""
    first, _, rest = setting.partition(".")
    return f"config:{first}.value{'.' if rest else ''}{rest}"


def label(metric: str) -> str:
    """What a metric is called in a chart's title."""
    return LABELS.get(metric) or short_name(metric.removeprefix("eval/"))


def _results(wanted: Wanted) -> list[Any]:
    """A bar a run, a panel a metric."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(title=_directed(metric), metrics=[metric], layout=wr.Layout(w=8, h=8))
        for metric in (*wanted.metrics, *ALWAYS)
    ]


def _scatter(setting: str, wanted: Wanted) -> list[Any]:
    """One setting against the margin and every metric, a point a run."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.ScatterPlot(
            title=f"{label(metric)} against {setting_name(setting)}", x=wr.Config(setting), y=wr.SummaryMetric(metric),
            log_x=setting in LOGARITHMIC or None, layout=wr.Layout(w=8, h=8),
        )
        for metric in ("margin", *wanted.metrics)
    ]  # fmt: skip


def _together(wanted: Wanted) -> list[Any]:
    """Parallel coordinates from the settings to the metrics, and how much each setting says about the first metric."""
    import wandb_workspaces.reports.v2 as wr

    axis = wr.ParallelCoordinatesPlotColumn
    settings = [axis(wr.Config(s), display_name=setting_name(s), log=s in LOGARITHMIC or None) for s in wanted.settings]
    metrics = [axis(wr.SummaryMetric(m), display_name=label(m)) for m in ("margin", *reversed(wanted.metrics))]
    return [
        wr.ParallelCoordinatesPlot(
            title="Settings and what came of them", columns=[*settings, *metrics], layout=wr.Layout(w=WIDE, h=10)
        ),
        wr.ParameterImportancePlot(with_respect_to=wanted.metrics[0], layout=wr.Layout(w=WIDE, h=8)),
    ]


def _curves(wanted: Wanted) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    shown = {**CURVES, f"{label(wanted.metrics[0])} while training": (wanted.metrics[0],)}
    return [
        wr.LinePlot(title=title, x=AXIS, y=list(metrics), title_x="optimiser step", layout=wr.Layout(w=12, h=8))
        for title, metrics in shown.items()
    ]


def _tables(wanted: Wanted) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.WeavePanelSummaryTable(table_name=name, layout=wr.Layout(w=WIDE, h=14)) for name in wanted.tables]


def _grid(wanted: Wanted, panels: Sequence[Any]) -> Any:
    """Panels of a report over the wanted runs. The set of runs names no project: it is the report's own."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    chosen = [expr.Metric("Group") == wanted.group] if wanted.group else ""
    return wr.PanelGrid(runsets=[wr.Runset(name=wanted.group or "All runs", filters=chosen)], panels=list(panels))


def _directed(metric: str) -> str:
    sense = direction(metric) if metric.startswith("eval/") else 0
    return label(metric) + {1: ", more is better", -1: ", less is better", 0: ""}[sense]
