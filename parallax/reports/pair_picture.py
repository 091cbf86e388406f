"""One preference pair as a picture for documents: clean image, corrupted view, both answers with differing words marked.

    python -m parallax.reports.pair_picture RUN_FOLDER OUTPUT.png [NUMBER]

The pair is read from the run's pair set; NUMBER picks another one than the first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from parallax.records import PreferencePair, ViewSpec
from parallax.records.images import together
from parallax.records.pair_store import PairSet, images_of
from parallax.records.yaml_file import read_yaml
from parallax.reports.corrupted import looked_at, view_of
from parallax.reports.worddiff import Span, diff_words
from parallax.settings.build import build

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOOD, BAD = "#1d7f55", "#c0392b"  # as on our pages
SPACE = 0.008  # between words; of the width of the answers' column


def pairs_of_run(run_folder: Path) -> list[PreferencePair]:
    """The pairs of a run's first stage, images found again through the run's own data source."""
    config = read_yaml(run_folder / "config.yaml")
    pointer = json.loads(next(iter(sorted(run_folder.glob("stages/**/pairs.json")))).read_text("utf-8"))
    return PairSet(pointer["pair_set"]).load(images_of(build(config["data"], "data")))


def draw_pair(pair: PreferencePair, path: Path) -> Path:
    """Write the picture (PNG)."""
    from parallax.reports.plots import figure, save

    image, view = together(pair.images).load(), view_of(pair.rejected[0])
    corrupted = looked_at(together(pair.images), view) if view is not None else image
    with figure(ncols=3, figsize=(11, 2.7), width_ratios=[1, 1, 2.6]) as (drawn, axes):
        for axis, picture, title in ((axes[0], image, "clean"), (axes[1], corrupted, _title(view))):
            axis.imshow(picture)
            axis.set_title(title, fontsize=10, loc="center", weight="normal")
        for axis in axes:
            axis.grid(False)
            axis.axis("off")
        axes[2].text(
            0, 1.0, pair.conversation.readable(), fontsize=11, weight="bold", va="top", transform=axes[2].transAxes
        )
        drawn.draw_without_rendering()  # columns get their places, so that words can be measured
        drawn.set_layout_engine("none")
        chosen, rejected = diff_words(pair.chosen.text, pair.rejected[0].text)
        _answer(axes[2], 0.78, "chosen: the answer to the clean image", chosen, GOOD)
        _answer(axes[2], 0.36, "rejected: the answer to the corrupted view", rejected, BAD)
        return save(drawn, path)


def _title(view: ViewSpec | None) -> str:
    if view is None:
        return "same image"
    return f"{view.name}, step {view.params['noise_steps']}" if "noise_steps" in view.params else view.name


def _answer(axis: Axes, top: float, heading: str, spans: list[Span], colour: str) -> None:
    axis.text(0, top, heading, fontsize=9, color=colour, va="top", transform=axis.transAxes)
    words = [(word, span.differs) for span in spans for word in span.text.split()]
    width, line, at = axis.get_window_extent().width, 0, 0.0
    for word, marked in words:
        box = {"facecolor": "#ffe89a", "edgecolor": "none", "pad": 1.2} if marked else None
        place = (at, top - 0.12 - 0.1 * line)
        text = axis.text(*place, word, fontsize=10, va="top", bbox=box, transform=axis.transAxes)
        long = text.get_window_extent().width / width
        if at and at + long > 1:
            line, at = line + 1, 0.0
            text.set_position((at, top - 0.12 - 0.1 * line))
        at += long + SPACE


if __name__ == "__main__":
    run, output, *number = sys.argv[1:]
    print(draw_pair(pairs_of_run(Path(run))[int(number[0]) if number else 0], Path(output)))
