"""Bridges to outside harnesses, lmms-eval and VLMEvalKit: the exported model goes in, their result files come back as metrics.

Their pins do not go with ours, so each runs in a Python environment of its own, named by its interpreter. A bridge writes the
command beside the log, runs it, and reads the files it leaves. Success is what is in those files: lmms-eval ends with exit code
0 after an error too.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallax.evaluation.ratio import Metric
from parallax.records.atomic import atomic_write_json, atomic_write_text
from parallax.settings.part import Part
from parallax.settings.ranges import Count

log = logging.getLogger(__name__)

TAIL = 15  # lines of a failed harness's log that are shown
NORMAL_95 = 1.959964


class HarnessFailed(RuntimeError):
    """A harness that left no results. The message has the command, the log file and the log's end."""


class Harness(Part, ABC):
    """An outside harness."""

    name: str
    python: str

    @abstractmethod
    def command(self, model: str, folder: Path) -> list[str]:
        """What is run to evaluate the model at this path, with results below `folder`. May write files there."""

    def where(self) -> str | None:
        """The folder it is run in; None for the present one."""
        return None

    @abstractmethod
    def read(self, folder: Path) -> dict[str, Metric]:
        """The metrics in the result files below `folder`; empty when there are none."""


def run_harness(harness: Harness, model: str, folder: Path | str) -> dict[str, Metric]:
    """Run a harness on a model (a folder or a hub name) and return its metrics, named `<harness>/<task>/<metric>`.

    Raises:
        HarnessFailed: there are no results afterwards.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    command = harness.command(model, folder)
    atomic_write_text(
        folder / "command.sh", f"cd {shlex.quote(harness.where() or str(Path.cwd()))}\n{shlex.join(command)}\n"
    )
    output = folder / "harness.log"
    log.info("%s: running %s, output in %s", harness.name, shlex.join(command), output)
    try:
        with output.open("wb") as stream:
            code = subprocess.run(
                command, cwd=harness.where(), stdout=stream, stderr=subprocess.STDOUT, check=False
            ).returncode
    except OSError as error:
        raise HarnessFailed(
            f"{harness.name} could not be started with {command[0]} ({error}); evaluation.harnesses.{harness.name}.python "
            "must name the interpreter of an environment that has it installed"
        ) from error
    metrics = harness.read(folder)
    if not metrics:
        end = "\n".join(output.read_text("utf-8", "replace").splitlines()[-TAIL:])
        raise HarnessFailed(f"{harness.name} left no results (exit code {code}); its log {output} ends with:\n{end}")
    return {f"{harness.name}/{name}": metric for name, metric in metrics.items()}


@dataclass(frozen=True)
class LmmsEval(Harness):
    """lmms-eval (checked with 0.7.3): `python -m lmms_eval --model … --tasks …`.

    Args:
        python: the interpreter of an environment that has lmms-eval.
        tasks: its tasks, such as [pope, mme].
        model: its name for the kind of model: llava_hf for LLaVA, qwen2_5_vl for Qwen2.5-VL.
        model_args: more of its model arguments; `pretrained` is filled in.
        batch_size: answers generated at once.
        limit: at most so many questions of each task; None for all.
        extra: further words of its command line.
    """

    python: str
    tasks: Sequence[str]
    model: str
    batch_size: Count
    model_args: Mapping[str, Any] = field(default_factory=dict)
    limit: Count | None = None
    extra: Sequence[str] = ()
    name: str = "lmms_eval"

    def command(self, model: str, folder: Path) -> list[str]:
        arguments = ",".join(f"{key}={value}" for key, value in {"pretrained": model, **self.model_args}.items())
        limit = ["--limit", str(self.limit)] if self.limit is not None else []
        return [
            self.python, "-m", "lmms_eval", "--model", self.model, "--model_args", arguments, "--tasks", ",".join(self.tasks),
            "--batch_size", str(self.batch_size), "--output_path", str(folder / "results"), "--log_samples", *limit, *self.extra,
        ]  # fmt: skip

    def read(self, folder: Path) -> dict[str, Metric]:
        """The newest `<date>_results.json`: `results` → task → `<metric>,<filter>`, with a standard error where there is one."""
        files = sorted(
            (folder / "results").rglob("*_results.json"), key=lambda file: (file.stat().st_mtime_ns, file.name)
        )
        return lmms_eval_metrics(json.loads(files[-1].read_text("utf-8"))) if files else {}


def lmms_eval_metrics(content: Mapping[str, Any]) -> dict[str, Metric]:
    """Metrics of one of lmms-eval's result files. Intervals are value ± 1.96 standard errors; `none` filters are not named."""
    found = {}
    for task, values in (content.get("results") or {}).items():
        counted = ((content.get("n-samples") or {}).get(task) or {}).get("effective", 0)
        for key, value in values.items():
            metric, _, rule = key.partition(",")
            if not rule or "_stderr" in metric or not _is_number(value):
                continue
            errors = [values.get(f"{metric}_stderr{kind},{rule}") for kind in ("", "_clustered", "_clt")]
            error = next((given for given in errors if _is_number(given)), None)
            half = NORMAL_95 * float(error) if error is not None else None
            name = f"{task}/{metric}" if rule == "none" else f"{task}/{metric}:{rule}"
            low, high = (None, None) if half is None else (float(value) - half, float(value) + half)
            found[name] = Metric(float(value), low, high, int(counted))
    return found


@dataclass(frozen=True)
class VlmEvalKit(Harness):
    """VLMEvalKit: `python run.py --config …` in its checkout.

    Args:
        python: the interpreter of an environment that has it.
        folder: its checkout.
        datasets: name → {class, dataset}, as its `--config` takes them: {POPE: {class: ImageYORNDataset, dataset: POPE}}.
        model_class: its class for the kind of model, such as LLaVA_Next.
        model_args: more of that class's arguments; `model_path` is filled in.
        extra: further words of its command line.
    """

    python: str
    folder: str
    datasets: Mapping[str, Mapping[str, Any]]
    model_class: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    extra: Sequence[str] = ()
    name: str = "vlmevalkit"

    def where(self) -> str | None:
        return self.folder

    def command(self, model: str, folder: Path) -> list[str]:
        about = {"class": self.model_class, "model_path": model, **self.model_args}
        atomic_write_json(folder / "vlmevalkit.json", {"model": {"model": about}, "data": dict(self.datasets)})
        return [
            self.python, "run.py", "--config", str(folder / "vlmevalkit.json"), "--work-dir", str(folder / "results"),
            *self.extra,
        ]  # fmt: skip

    def read(self, folder: Path) -> dict[str, Metric]:
        """`<model>_<dataset>_acc.csv` and `…_score.csv`, of the newest evaluation of each."""
        found: dict[str, Metric] = {}
        for dataset in self.datasets:
            for kind in ("acc", "score"):
                files = sorted(
                    (folder / "results").rglob(f"model_{dataset}_{kind}.csv"),
                    key=lambda f: (f.stat().st_mtime_ns, str(f)),
                )
                if files:
                    with files[-1].open(encoding="utf-8-sig", newline="") as stream:
                        rows = vlmevalkit_metrics(list(csv.DictReader(stream)))
                    found |= {f"{dataset}/{name}": metric for name, metric in rows.items()}
        return found


def vlmevalkit_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """Numbers of one of its tables: `<column>` where there is one row, `<column>:<row's words>` where there are several."""
    found = {}
    for row in rows:
        numbers = {column: float(value) for column, value in row.items() if column and _is_number(value)}
        words = " ".join(str(value) for column, value in row.items() if column and value and not _is_number(value))
        for column, value in numbers.items():
            if column not in ("index", "Unnamed: 0"):
                found[f"{column}:{words}" if len(rows) > 1 and words else column] = Metric(value, None, None, 0)
    return found


def _is_number(value: str | float | None) -> bool:
    try:
        return not isinstance(value, bool) and value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
