"""What metrics are called where people read them, and which way is better.

Files, loggers and `optimized_metric` keep the keys, such as `pope_f1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHORT = {
    "chair_i": "CHAIR-i",
    "chair_s": "CHAIR-s",
    "recall": "Recall",
    "accuracy": "Accuracy",
    "mmhal_hallucination_rate": "MMHal-Bench hallucination rate",
    "mmhal_score": "MMHal-Bench score",
    "shr": "SHR",
    "amber_hal": "AMBER Hal",
    "amber_cog": "AMBER Cog",
    "amber_cover": "AMBER Cover",
    "amber_chair": "AMBER CHAIR",
    "a_consistency_score": "Answer consistency",
    "q_consistency_score": "Question consistency",
    "margin": "Reward margin",
    "image_use_nats": "Image use (nats)",
    "chosen_nats": "Chosen log-prob (nats)",
    "rejected_nats": "Rejected log-prob (nats)",
}
WHOLE = {
    "chair_i": "CHAIR-i, hallucinated among mentioned objects",
    "chair_s": "CHAIR-s, descriptions with a hallucination",
    "recall": "Recall, objects of the image mentioned",
    "accuracy": "Accuracy of short answers",
    "shr": "SHR, sentences with a hallucination",
}
BENCHMARKS = {  # the first word of a key
    "pope": "POPE", "amber": "AMBER", "mme": "MME", "mmbench": "MMBench", "mathvista": "MathVista", "textvqa": "TextVQA",
    "gqa": "GQA", "vizwiz": "VizWiz", "scienceqa": "ScienceQA", "seed": "SEED-Bench", "llava": "LLaVA-Bench", "mmvet": "MM-Vet",
    "chartqa": "ChartQA", "coco": "COCO",
}  # fmt: skip
HARNESSES = ("lmms_eval/", "vlmevalkit/")
WORDS = {"f1": "F1", "cn": "CN", "qa": "QA"}

LOWER_IS_BETTER = frozenset(
    {
        "chair_i", "chair_s", "parse_failures", "judge_failures", "amber_chair", "amber_hal", "amber_cog", "shr",
        "hallucination_rate",
    }
)  # fmt: skip
NEITHER_IS_BETTER = frozenset({"yes_ratio", "rejected_nats"})


def short_name(metric: str) -> str:
    """`POPE F1` for `pope_f1`, `POPE random accuracy` for `pope_random_accuracy`, `Accuracy, colour` for `accuracy/colour`."""
    if metric.startswith(HARNESSES):  # called as the harness calls it
        return metric
    metric, _, of = metric.partition(":")
    head, _, kind = metric.partition("/")
    if metric in SHORT:
        name = SHORT[metric]
    elif kind:
        name = f"{short_name(head)}, {short_name(kind) if _is_known(kind) else kind.replace('_', ' ')}"
    else:
        first, *rest = metric.split("_")
        name = " ".join([BENCHMARKS.get(first, first.capitalize()), *(WORDS.get(word, word) for word in rest)])
    return f"{name} ({of})" if of else name


def _is_known(metric: str) -> bool:
    return metric in SHORT or metric.split("_")[0] in BENCHMARKS


def whole_name(metric: str) -> str:
    """The short name and, where that is an abbreviation, what is counted."""
    return WHOLE.get(metric, short_name(metric))


def direction(metric: str) -> int:
    """+1 when more is better, −1 when less is better, 0 when neither; by the last part of the metric's name."""
    short = metric.split(":")[0].rsplit("/", 1)[-1]
    if any(short.endswith(name) for name in NEITHER_IS_BETTER):
        return 0
    return -1 if any(short.endswith(name) for name in LOWER_IS_BETTER) else 1


def lookup(results: Mapping[str, Any], path: str) -> float:
    """A number of the results by its path: `difference/chair_i`, `after/accuracy/colour`, `pairs/kept`. NaN if missing.

    This is what a sweep optimises, so a failed measurement must not stop it.
    """
    side, _, name = path.partition("/")
    found = results.get(side, {})
    if isinstance(found, Mapping):
        found = found.get(name)
    if isinstance(found, Mapping):
        found = found.get("value")
    return float(found) if isinstance(found, int | float) else float("nan")
