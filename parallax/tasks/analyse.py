"""The papers' looks at finished runs and at images; numbers in `analysis.json`, a picture for each.

python run.py task=analyse task.runs=[outputs/a,outputs/b]                        # how long answers are
python run.py task=analyse task.what=[noise] task.runs=[…] task.metric=after/recall   # runs of several aug.noise_steps
python run.py task=analyse task.what=[images] data=… evaluation=…                 # training and benchmark images

Looks at finished runs: how long answers are (SeVa figure 5), noise step against margin and metric (SeVa figure 7), and where
training and benchmark images lie beside each other (STIC figure 8). Numbers first; each picture is drawn from them.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf

from parallax.evaluation.evaluation import Evaluation
from parallax.models.devices import pick_device
from parallax.models.image_text import ImageTextModel
from parallax.records import BadImage
from parallax.records.atomic import atomic_write_json
from parallax.records.yaml_file import read_yaml
from parallax.reports.metric_names import lookup, short_name
from parallax.reports.plots import line_style, panels, save
from parallax.reports.run_log import run_log
from parallax.settings.build import build
from parallax.settings.groups import Task
from parallax.tasks.parts import make_suites

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
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    task, folder = config["task"], Path(config["paths"]["output_dir"])
    runs = [Path(run).expanduser() for run in task["runs"]]
    told: dict[str, Any] = {}
    with run_log(folder):
        if "lengths" in task["what"]:
            lengths = {str(run): answer_lengths(run) for run in runs}
            told["lengths"] = {
                run: {side: {s: length_statistics(n) for s, n in suites.items()} for side, suites in sides.items()}
                for run, sides in lengths.items()
            }
            draw_lengths(lengths, folder / "lengths.png")
        if "noise" in task["what"]:
            rows = [{"run": str(run), **noise_row(run, task["metric"])} for run in runs]
            told["noise"] = sorted(rows, key=lambda row: row["noise_steps"])
            draw_noise(told["noise"], task["metric"], folder / "noise.png")
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
    places = layout(embeddings, task["map"], int(config["seed"]))
    draw_images(places, names, folder / "images.png")
    training = [name == "training" for name in names]
    mixed = {
        suite: mixing(
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


def answer_lengths(run: Path) -> dict[str, dict[str, list[int]]]:
    """Words of every answer: side (before, after, …) → suite → lengths. Read from the run folder's evaluations."""
    files = [*sorted(run.glob("stages/**/eval_*.json")), *sorted(run.glob("evaluations/*.json"))]
    found: dict[str, dict[str, list[int]]] = {}
    for file in files:
        side = found.setdefault(file.stem.removeprefix("eval_"), {})
        for item in Evaluation.load(file).items:
            side.setdefault(item.suite, []).append(len(item.answer.split()))
    if not found:
        raise FileNotFoundError(
            f"{run} has no evaluations (stages/*/eval_*.json or evaluations/*.json); is it a run folder?"
        )
    return found


def length_statistics(lengths: Sequence[int]) -> dict[str, float]:
    """Mean, median, 10th and 90th percentile, in words; how many."""
    values = np.asarray(lengths, dtype=np.float64)
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {
        "n": float(len(values)),
        "mean": float(values.mean()),
        "p10": float(low),
        "median": float(middle),
        "p90": float(high),
    }


def noise_row(run: Path, metric: str) -> dict[str, float]:
    """One run's noise step, late reward margin of its last stage fitted to pairs, and metric."""
    config = read_yaml(run / "config.yaml")
    step = (config.get("aug") or {}).get("noise_steps")
    if step is None:
        raise ValueError(f"{run} was not made with diffusion noise (its configuration has no aug.noise_steps)")
    fits = [json.loads(file.read_text("utf-8")) for file in sorted(run.glob("stages/**/fit.json"))]
    margins = [fit["late_margin"] for fit in fits if fit.get("late_margin") is not None]
    if not margins:
        raise ValueError(f"{run} has no stage that was fitted to pairs (stages/*/fit.json without a reward margin)")
    results = json.loads((run / "results.json").read_text("utf-8"))
    return {"noise_steps": float(step), "margin": float(margins[-1]), "metric": lookup(results, metric)}


def layout(embeddings: Sequence[Sequence[float]], how: str, seed: int) -> Any:
    """Embeddings in two dimensions. Shape: (images, features) → (images, 2)."""
    count = len(embeddings)
    if how == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ValueError("task.map=umap needs umap-learn: pip install umap-learn, or use task.map=tsne") from error
        return UMAP(n_neighbors=min(15, count - 1), random_state=seed).fit_transform(embeddings)
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ValueError("task.map=tsne needs scikit-learn: pip install scikit-learn") from error
    perplexity = max(1.0, min(30.0, (count - 1) / 3))
    return TSNE(2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(np.asarray(embeddings))


def mixing(embeddings: Sequence[Sequence[float]], is_training: Sequence[bool], neighbours: int = 5) -> float | None:
    """Share of training images among the nearest neighbours of benchmark images, over what chance would give; 1 is well mixed.

    By cosine, in the space of the embeddings (the picture of two dimensions distorts distances).
    """
    points, training = np.asarray(embeddings, dtype=np.float64), np.asarray(is_training, dtype=bool)
    if training.all() or not training.any() or len(points) < 3:
        return None
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    near = points @ points.T
    np.fill_diagonal(near, -np.inf)
    nearest = np.argsort(-near, axis=1)[:, : min(neighbours, len(points) - 1)]
    share = training[nearest[~training]].mean()
    return float(share / (training.sum() / (len(points) - 1)))


def draw_lengths(lengths: Mapping[str, Mapping[str, Mapping[str, list[int]]]], path: Path) -> None:
    """A histogram per run and suite, its sides over each other."""
    cells = [
        (run, suite)
        for run, sides in lengths.items()
        for suite in dict.fromkeys(s for side in sides.values() for s in side)
    ]
    with panels(len(cells)) as (whole, axes):
        for axis, (run, suite) in zip(axes, cells, strict=True):
            sides = {side: suites[suite] for side, suites in lengths[run].items() if suite in suites}
            every = [count for counts in sides.values() for count in counts]
            bins = np.histogram_bin_edges(every, bins=min(30, 1 + max(every)))
            for number, (side, counts) in enumerate(sides.items()):
                style = {key: value for key, value in line_style(number).items() if key != "marker"}
                axis.hist(
                    counts, bins=list(bins), histtype="step", label=f"{side}, mean {np.mean(counts):.1f}", **style
                )
            axis.set_title(f"{Path(run).name} · {suite}")
            axis.set_xlabel("words of an answer")
            axis.set_ylabel("answers")
            axis.margins(y=0.3)  # room for the legend
            axis.legend(loc="upper right")
        save(whole, path)


def draw_noise(rows: Sequence[Mapping[str, float]], metric: str, path: Path) -> None:
    """Reward margin and metric over the noise step."""
    side, _, name = metric.partition("/")
    shown = {"margin": "Reward margin, late in training", "metric": f"{short_name(name or side)} ({side})"}
    with panels(len(shown)) as (whole, axes):
        for number, (axis, (key, title)) in enumerate(zip(axes, shown.items(), strict=True)):
            axis.plot([row["noise_steps"] for row in rows], [row[key] for row in rows], **line_style(number))
            axis.set_title(title)
            axis.set_xlabel("noise step, of 1000")
        save(whole, path)


def draw_images(places: np.ndarray, names: Sequence[str], path: Path) -> None:
    """A point per image; colour and marker tell the source."""
    with panels(1, size=(5.5, 4.2)) as (whole, (axis,)):
        for number, name in enumerate(dict.fromkeys(names)):
            mine = np.asarray([other == name for other in names])
            style = {key: value for key, value in line_style(number).items() if key != "linestyle"}
            x, y = np.asarray(places)[mine].T
            axis.scatter(x, y, s=14, alpha=0.7, label=f"{name} ({mine.sum()})", **style)
        axis.set_xticks([])
        axis.set_yticks([])
        whole.legend(loc="outside right upper")
        save(whole, path)
