"""The task `check_data`: is the data there, whole and readable, before hours are spent on it?

    python run.py task=check_data data=seva_16k
    python run.py task=check_data data=coco data.path=/data/coco task.images=null

Looks at every source the method's stages read: what is there and what is missing, counts per source, images that cannot be read,
what the model's template and context refuse, what the filters of a run drop, duplicates, images that an evaluation suite has too,
tokens per prompt and answer, example rows. Writes `check_data.json` into the run folder. Ends with an error when a run would not
start.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from datamodules.further_columns import FurtherColumns
from datamodules.inspection import inspect
from parallax.models.encoding.token_counts import load_encoder
from parallax.records import BadImage
from parallax.records.atomic import atomic_write_json
from parallax.records.plain_text import say
from parallax.reports.corrupted import evaluation_subjects
from parallax.reports.data_report import complaints, data_report, remarks
from parallax.reports.run_log import run_log
from parallax.settings.build import build
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Model, Stage, Task
from parallax.settings.ranges import Count, Natural
from parallax.settings.stages import resolve_stages

log = logging.getLogger(__name__)

MOST_EVALUATED = 5000  # samples of a suite whose images are compared


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("data",)
    tells_what_is_missing: ClassVar[bool] = True

    images: Count | None
    workers: Count | None
    examples: Natural
    tokens: bool


def run(cfg: DictConfig) -> dict[str, Any]:
    """Print the report and write `check_data.json`. Raises ConfigError with all that stands in the way of a run."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder = Path(config["paths"]["output_dir"])
    width = max(80, shutil.get_terminal_size((120, 40)).columns)
    content: dict[str, Any] = {}
    wrong: list[str] = []
    with run_log(folder):
        evaluated = _evaluated(config)
        for key, stage in _sources(cfg, config):
            started, share = time.perf_counter(), stage.pairs.max_skipped_share
            found, fault = _inspected(stage, config, evaluated)
            if found is None:
                say(f"{key}: {fault}")
                content[key] = {"error": fault}
                wrong.append(f"{key}: {fault}")
                continue
            against = complaints(found, share)
            wrong += [f"{key}: {complaint}." for complaint in against]
            say(data_report(key, found, width=width))
            verdict = "; ".join(["not ready" if against else "ready", *remarks(found)])
            say(f"  {verdict} ({time.perf_counter() - started:.1f} s)")
            content[key] = {**asdict(found), "complaints": against, "remarks": remarks(found)}
        atomic_write_json(folder / "check_data.json", content)
        log.info("all of it: %s", folder / "check_data.json")
    if wrong:
        raise ConfigError(wrong)
    return {"data": content}


def _sources(cfg: DictConfig, config: Mapping[str, Any]) -> list[tuple[str, Stage]]:
    """Every different source that the stages read: its group's key, and the first stage that reads it."""
    known: list[tuple[str, Stage]] = []
    for stage in map(Stage.of, resolve_stages(cfg)):
        key = "data" if stage.data == config["data"] else f"stages.{stage.name}.data"
        if all(other.data != stage.data for _, other in known):
            known.append((key, stage))
    return known


def _evaluated(config: Mapping[str, Any]) -> dict[str, set[str]]:
    """Digests of the images of every evaluation suite whose samples are at hand."""
    found: dict[str, set[str]] = {}
    for name, suite in ((config.get("evaluation") or {}).get("suites") or {}).items():
        subjects = evaluation_subjects({"evaluation": {"suites": {name: suite}}})
        found[name] = set()
        for subject in islice(subjects.values(), MOST_EVALUATED):
            for image in subject.images:
                with suppress(BadImage):
                    found[name].add(image.digest())
    return found


def _inspected(stage: Stage, config: Mapping[str, Any], evaluated: Mapping[str, set[str]]) -> tuple[Any, str]:
    """(what was found, ""), or (None, why the source cannot be read at all)."""
    from hydra.errors import InstantiationException

    node, task = stage.data, config["task"]

    def encoder() -> Any:
        return load_encoder(Model.of(config["model"]))

    try:
        source = build(node, "data")
        given = source.pairs is not None
        found = inspect(
            source, images=task["images"], workers=task["workers"], examples=task["examples"], seed=int(config["seed"]),
            encoder=encoder if task["tokens"] else None, evaluated=evaluated,
            room=1 if given or stage.fit == "supervised" else stage.generation.max_new_tokens,
            looks_at_images=given and FurtherColumns(tuple(build(stage.loss, f"stages.{stage.name}.loss").looks)).looks_at_images,
            selector=build(stage.selector, f"stages.{stage.name}.selector") if given else None,
        )  # fmt: skip
    except (InstantiationException, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ is not None else error
        if not isinstance(cause, OSError | ValueError):
            raise
        return None, str(cause)
    return found, ""
