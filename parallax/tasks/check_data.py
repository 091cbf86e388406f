"""The task `check_data`: is the data there, whole and readable, before hours are spent on it?

    python run.py task=check_data data=seva_16k
    python run.py task=check_data data=coco data.path=/data/coco task.images=null

Looks at every source the method's stages read: what is there and what is missing, counts per source, images that cannot be read,
example rows, tokens per prompt. Writes `check_data.json` into the run folder. Ends with an error when a run would not start.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from parallax.settings.build import build
from parallax.settings.errors import ConfigError
from parallax.settings.stages import resolve_stages

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Print the report and write `check_data.json`. Raises ConfigError with all that stands in the way of a run."""
    from parallax.records.atomic import atomic_write_json
    from parallax.reports.data_report import complaints, data_report, remarks
    from parallax.reports.run_log import run_log

    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder, task = Path(plain["paths"]["output_dir"]), plain["task"]
    width = max(80, shutil.get_terminal_size((120, 40)).columns)
    content: dict[str, Any] = {}
    wrong: list[str] = []
    with run_log(folder):
        for key, node, share in _sources(cfg, plain):
            started = time.perf_counter()
            found, fault = _inspected(node, plain, task)
            if found is None:
                print(f"{key}: {fault}", flush=True)
                content[key] = {"error": fault}
                wrong.append(f"{key}: {fault}")
                continue
            against = complaints(found, share)
            wrong += [f"{key}: {complaint}." for complaint in against]
            print(data_report(key, found, width=width))
            verdict = "; ".join(["not ready" if against else "ready", *remarks(found)])
            print(f"  {verdict} ({time.perf_counter() - started:.1f} s)", flush=True)
            content[key] = {**asdict(found), "complaints": against, "remarks": remarks(found)}
        atomic_write_json(folder / "check_data.json", content)
        log.info("all of it: %s", folder / "check_data.json")
    if wrong:
        raise ConfigError(wrong)
    return {"data": content}


def _sources(cfg: DictConfig, plain: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], float]]:
    """Every different source that the stages read: (its group's key, its node, the share that may be set aside)."""
    known: list[tuple[str, dict[str, Any], float]] = []
    for stage in resolve_stages(cfg):
        key = "data" if stage["data"] == plain["data"] else f"stages.{stage['name']}.data"
        if all(node != stage["data"] for _, node, _ in known):
            known.append((key, stage["data"], float(stage["pairs"]["max_skipped_share"])))
    return known


def _inspected(node: Mapping[str, Any], plain: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[Any, str]:
    """(what was found, ""), or (None, why the source cannot be read at all)."""
    from hydra.errors import InstantiationException

    from datamodules.inspection import inspect

    def encoder() -> Any:
        from parallax.models.encoding.encoder_only import load_encoder

        return load_encoder(plain["model"])

    try:
        source = build(node, "data")
        found = inspect(
            source, images=task["images"], workers=task["workers"], examples=task["examples"], seed=int(plain["seed"]),
            encoder=encoder if task["tokens"] else None,
        )  # fmt: skip
    except (InstantiationException, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ is not None else error
        if not isinstance(cause, OSError | ValueError):
            raise
        return None, str(cause)
    return found, ""
