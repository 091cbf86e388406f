"""Warnings in words: what a run's numbers say that its author would want to know before trusting the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parallax.evaluation.evaluation import Evaluation
from parallax.reports.metrics_csv import curve, late_mean
from parallax.reports.results import metric_of, verdict

CUT_SHARE = 0.10  # of answers cut by the token limit that is worth a word
UNREAD_SHARE = 0.05  # of yes/no answers that say neither
DROPPED_SHARE = 0.70  # of samples that gave no pair


def health_warnings(
    curves: Mapping[str, Sequence[Mapping[str, str]]],
    results: Mapping[str, Any],
    evaluations: Sequence[Evaluation] = (),
) -> list[str]:
    """Sentences, each with the number behind it and what to try.

    Args:
        curves: stage → rows of its `metrics.csv`.
        results: the content of `results.json`.
        evaluations: whose answers are looked at (usually the one after training).
    """
    said = [warning for stage, rows in curves.items() for warning in _training(stage, rows)]
    said += _pairs(results.get("pairs") or {})
    for metric, words in (("recall", "finds fewer of the objects"), ("accuracy", "answers fewer questions rightly")):
        change = metric_of((results.get("difference") or {}).get(metric))
        if verdict(metric, change) == "worse" and change.value is not None:
            said.append(
                f"The model now {words} ({metric} {100 * change.value:+.1f} points): a gentler recipe may keep them "
                "(lower optim.lr, higher loss.beta, or loss=stic)."
            )
    for evaluation in evaluations:
        said += _answers(evaluation)
    return said


def _training(stage: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
    said = []
    _, losses = curve(rows, "train/loss")
    if any(not math.isfinite(loss) for loss in losses):
        said.append(f"Stage {stage}: the loss was not finite at some step; lower optim.lr or train in float32.")
    mean = late_mean(rows, "train/rewards/chosen")
    if mean is not None and mean < 0:
        said.append(
            f"Stage {stage}: the reward of the chosen answers fell below zero (mean {mean:.2f} in the last quarter): "
            "the model moves away from its own good answers. Try loss=stic, a lower optim.lr or a higher loss.beta."
        )
    _, margins = curve(rows, "train/rewards/margins")
    if len(margins) >= 8 and abs(late_mean(rows, "train/rewards/margins") or 0.0) < 1e-3:
        said.append(f"Stage {stage}: the reward margin did not move; raise optim.lr or train longer.")
    return said


def _pairs(pairs: Mapping[str, Any]) -> list[str]:
    dropped = dict(pairs.get("dropped") or {})
    total = int(pairs.get("kept") or 0) + sum(dropped.values())
    if not total or sum(dropped.values()) <= DROPPED_SHARE * total:
        return []
    reason, count = max(dropped.items(), key=lambda item: item[1])
    advice = " A stronger view (aug.noise_steps higher) makes more answers differ." if reason == "equal" else ""
    return [f"{sum(dropped.values())} of {total} samples gave no pair, {count} of them because: {reason}.{advice}"]


def _answers(evaluation: Evaluation) -> list[str]:
    said = []
    cut = sum(not item.finished for item in evaluation.items)
    if cut > CUT_SHARE * len(evaluation.items):
        said.append(
            f"{cut} of {len(evaluation.items)} answers were cut by the token limit; raise evaluation.max_new_tokens, "
            "or the metrics speak of half answers."
        )
    for name, metric in evaluation.metrics.items():
        if name.endswith("pope_parse_failures") and metric.value is not None and metric.value > UNREAD_SHARE:
            said.append(
                f"{metric.value:.0%} of the yes/no answers say neither yes nor no and count as yes; look at them "
                "before trusting POPE."
            )
    if evaluation.skipped:
        said.append(f"{len(evaluation.skipped)} evaluation samples were set aside; see skipped.jsonl for the reasons.")
    return said
