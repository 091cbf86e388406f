"""A capped W&B table of preference pairs: both images, both answers with the differing words marked, one row a pair."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from parallax.records import BadImage, PreferencePair
from parallax.records.images import together
from parallax.reports.corrupted import looked_at, view_of
from parallax.reports.model_eye import ModelEye
from parallax.reports.worddiff import diff_words, marked_text

if TYPE_CHECKING:
    from parallax.reports.staged_logger import StagedLogger

log = logging.getLogger(__name__)

COLUMNS = ["sample", "source", "kind", "image", "corrupted", "prompt", "chosen", "rejected", "view"]
T = TypeVar("T")


def log_pairs(
    loggers: Sequence[StagedLogger],
    pairs: Sequence[PreferencePair],
    *,
    limit: int = 64,
    key: str = "pairs",
    side: int = 160,
    eye: ModelEye | None = None,
) -> int:
    """Log up to `limit` pairs, evenly picked, as one table to every W&B logger. Returns the number of rows.

    Args:
        limit: most rows; 0 logs nothing.
        key: name of the table; with several rounds, one name per round.
        side: longest side of the thumbnails in pixels.
        eye: how the model sees images, for the corrupted ones; CLIP's way by default.

    Words between ⟦ and ⟧ are those the other answer does not have. With K rejected answers the first is shown.
    """
    working = [(logger, run) for logger in loggers if (run := logger.run) is not None]
    if not working or not pairs or limit < 1:
        return 0
    rows = [row for pair in evenly(pairs, limit) if (row := _row(pair, side, eye)) is not None]
    import wandb

    for logger, run in working:
        table = wandb.Table(columns=list(COLUMNS), data=rows)
        logger.try_to("log pairs", partial(run.log, {key: table}))
    return len(rows)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, spread over the whole sequence, in order; the same for the same sequence."""
    if len(items) <= count:
        return list(items)
    return [items[position * len(items) // count] for position in range(count)]


def _row(pair: PreferencePair, side: int, eye: ModelEye | None) -> list[Any] | None:
    import wandb

    rejected = pair.rejected[0]
    view = view_of(rejected)
    try:
        clean = looked_at(together(pair.images), None).convert("RGB")
        corrupted = looked_at(together(pair.images), view, eye) if view is not None else None
        if pair.rejected_images:
            corrupted = together(pair.rejected_images).load()
    except BadImage as error:
        log.warning("%s is not in the pairs table: %s", pair.sample_id, error)
        return None
    clean.thumbnail((side, side))
    if corrupted is not None:
        corrupted.thumbnail((side, side))
    ours, theirs = diff_words(pair.chosen.text, rejected.text)
    named = f"{view.name} {dict(view.params)}" if view is not None else ""
    return [
        pair.sample_id, pair.source, pair.kind, wandb.Image(clean, file_type="jpg"),
        wandb.Image(corrupted, file_type="jpg") if corrupted is not None else None, pair.conversation.readable(),
        marked_text(ours), marked_text(theirs), named,
    ]  # fmt: skip
