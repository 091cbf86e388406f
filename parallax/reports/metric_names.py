"""What metrics are called where people read them. Files, loggers and `optimized_metric` keep the keys, such as `pope_f1`."""

from __future__ import annotations

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
