"""The papers' looks at finished runs and at images; numbers in `analysis.json`, a picture for each.

python run.py task=analyse task.runs=[outputs/a,outputs/b]                        # how long answers are
python run.py task=analyse task.what=[noise] task.runs=[…] task.metric=after/recall   # runs of several aug.noise_steps
python run.py task=analyse task.what=[images] data=… evaluation=…                 # training and benchmark images
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from parallax.models.devices import pick_device
from parallax.models.image_text import ImageTextModel
from parallax.records import BadImage
from parallax.records.atomic import atomic_write_json
from parallax.reports import analysis
from parallax.reports.run_log import run_log
from parallax.settings.build import build
from parallax.settings.groups import Task
from parallax.tasks.parts import make_suites

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    what: Sequence[Literal["lengths", "noise", "images"]]
    runs: Sequence[str]
    metric: str
    images: Annotated[int, Ge(2)]
    map: Literal["tsne", "umap"]
    image_text: str


def run(cfg: DictConfig) -> dict[str, Any]:
    """Make what `task.what` names; returns the numbers."""
    from omegaconf import OmegaConf

    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    task, folder = config["task"], Path(config["paths"]["output_dir"])
    runs = [Path(run).expanduser() for run in task["runs"]]
    told: dict[str, Any] = {}
    with run_log(folder):
        if "lengths" in task["what"]:
            lengths = {str(run): analysis.answer_lengths(run) for run in runs}
            told["lengths"] = {
                run: {
                    side: {s: analysis.length_statistics(n) for s, n in suites.items()}
                    for side, suites in sides.items()
                }
                for run, sides in lengths.items()
            }
            analysis.draw_lengths(lengths, folder / "lengths.png")
        if "noise" in task["what"]:
            rows = [{"run": str(run), **analysis.noise_row(run, task["metric"])} for run in runs]
            told["noise"] = sorted(rows, key=lambda row: row["noise_steps"])
            analysis.draw_noise(told["noise"], task["metric"], folder / "noise.png")
        if "images" in task["what"]:
            told["images"] = _images(config, folder)
        atomic_write_json(folder / "analysis.json", told)
        log.info("%s in %s", ", ".join([*(f"{name}.png" for name in told), "analysis.json"]), folder)
    return told


def _images(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Embed pictures of `data` and of each suite, lay them out, say how well they mix."""
    task = config["task"]
    sources = {"training": build(config["data"], "data")}
    sources |= {suite.name: suite.samples for suite in make_suites(config)}
    names, pictures = [], []
    for name, samples in sources.items():
        seen: set[str] = set()
        for sample in itertools.islice(samples, 20 * int(task["images"])):
            try:
                digest = sample.image.digest()
            except BadImage as error:
                log.warning("%s is left out: %s", sample.id, error)
                continue
            if digest not in seen and len(seen) < int(task["images"]):
                seen.add(digest)
                names.append(name)
                pictures.append(sample.image)
    model = ImageTextModel(str(task["image_text"]))
    embeddings = model.embed(pictures, pick_device(str(config["trainer"]["accelerator"])))
    places = analysis.layout(embeddings, task["map"], int(config["seed"]))
    analysis.draw_images(places, names, folder / "images.png")
    training = [name == "training" for name in names]
    mixed = {
        suite: analysis.mixing(
            [e for e, n in zip(embeddings, names, strict=True) if n in ("training", suite)],
            [t for t, n in zip(training, names, strict=True) if n in ("training", suite)],
        )
        for suite in sources
        if suite != "training"
    }
    points = [
        {"source": n, "image": p.describe(), "x": float(x), "y": float(y)}
        for n, p, (x, y) in zip(names, pictures, places, strict=True)
    ]
    return {"mixing": mixed, "points": points}
