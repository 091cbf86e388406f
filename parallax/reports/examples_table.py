"""A capped W&B table of evaluation examples: the picture, the question, the truth, the answer before and after, and the trend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from parallax.evaluation.evaluation import Evaluation, EvaluationItem
from parallax.records import BadImage, ImageRef, Sample
from parallax.reports.metric_names import direction
from parallax.reports.pairs_table import evenly
from parallax.reports.worddiff import diff_words, marked_text

if TYPE_CHECKING:
    import wandb

    from parallax.reports.staged_logger import StagedLogger

COLUMNS = ["trend", "suite", "kind", "image", "question", "truth", "before", "after", "sample"]
TRENDS = ("improved", "worse", "unchanged")  # in the order in which room is given: what changed is looked at first


def log_examples(
    loggers: Sequence[StagedLogger],
    before: Evaluation | None,
    after: Evaluation | None,
    samples: Iterable[Sample],
    *,
    limit: int = 32,
    key: str = "examples",
    side: int = 160,
) -> int:
    """Log up to `limit` questions that both evaluations asked to every W&B logger. Returns the number of rows.

    A third of the rows is meant for each trend (improved, worse, unchanged); room that one leaves goes to the others. Words
    between ⟦ and ⟧ are those the other answer does not have.

    Args:
        samples: evaluation samples, for the pictures.
        limit: most rows; 0 logs nothing.
        side: longest side of the thumbnails in pixels.
    """
    working = [(logger, run) for logger in loggers if (run := logger.run) is not None]
    if not working or before is None or after is None or limit < 1:
        return 0
    images = {sample.id: sample.image for sample in samples}
    chosen = examples(before, after, limit)
    for logger, run in working:
        logger.try_to("log examples", partial(_log, run, chosen, images, key, side))
    return len(chosen)


def examples(before: Evaluation, after: Evaluation, limit: int) -> list[tuple[str, EvaluationItem, EvaluationItem]]:
    """(trend, item before, item after), at most `limit`, in the order of `TRENDS`, evenly picked within each."""
    old = {item.key: item for item in before.items}
    found: dict[str, list[tuple[str, EvaluationItem, EvaluationItem]]] = {trend: [] for trend in TRENDS}
    for item in after.items:
        if (first := old.get(item.key)) is not None:
            trend = trend_of(first, item)
            found[trend].append((trend, first, item))
    room, shares = limit, {}
    for left, trend in zip(range(len(TRENDS), 0, -1), sorted(TRENDS, key=lambda name: len(found[name])), strict=True):
        shares[trend] = min(len(found[trend]), room // left)
        room -= shares[trend]
    return [row for trend in TRENDS for row in evenly(found[trend], shares[trend])]


def trend_of(before: EvaluationItem, after: EvaluationItem) -> str:
    """`improved`, `worse` or `unchanged`, by the first metric of the item's suite."""
    step = _goodness(after) - _goodness(before)
    return "unchanged" if not step else "improved" if step > 0 else "worse"


def _goodness(item: EvaluationItem) -> float:
    name = next(iter(item.scores), None)
    return direction(name) * item.scores[name][0] if name is not None else 0.0


def _log(
    run: wandb.Run,
    chosen: Sequence[tuple[str, EvaluationItem, EvaluationItem]],
    images: Mapping[str, ImageRef],
    key: str,
    side: int,
) -> None:
    import wandb

    rows = []
    for trend, first, last in chosen:
        left, right = (marked_text(spans) for spans in diff_words(first.answer, last.answer))
        picture = _picture(images.get(last.sample_id), side)
        rows.append([
            trend, last.suite, last.kind, wandb.Image(picture, file_type="jpg") if picture is not None else None,
            last.question, last.truth, left, right, last.sample_id,
        ])  # fmt: skip
    run.log({key: wandb.Table(columns=list(COLUMNS), data=rows)})


def _picture(image: ImageRef | None, side: int) -> Any:
    if image is None:
        return None
    try:
        loaded = image.load().convert("RGB")
    except BadImage:
        return None
    loaded.thumbnail((side, side))
    return loaded
