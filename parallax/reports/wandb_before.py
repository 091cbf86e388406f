"""What an earlier process of this run has left in W&B's offline files: the last step of each metric.

A run that crashed and goes on from a checkpoint logs some steps again, and W&B, which writes to its file only every so often, may
lack the last ones before the crash. With the last steps known, the first are left out and the others come from `metrics.csv`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from parallax.reports.metrics_csv import read_metrics

log = logging.getLogger(__name__)

BLOCK = 32768  # bytes; a record that does not fit is cut
HEAD = 7  # bytes before the first record of a file, and before each part of a record: checksum 4, length 2, kind 1
WHOLE, LAST = 1, 4  # kinds of parts after which a record is complete
CURVES = ("train/", "eval/", "answers/", "epoch")  # metrics of a fit's steps


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a `run-<id>.wandb`; ends where a killed process left off."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, position, partial = path.read_bytes(), HEAD, b""
    while position + HEAD <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEAD:
            position += room
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        if kind == 0 or position + HEAD + length > len(data):
            return
        partial += data[position + HEAD : position + HEAD + length]
        position += HEAD + length
        if kind in (WHOLE, LAST):
            yield Record.FromString(partial)
            partial = b""


def last_steps(folder: Path, run_id: str) -> dict[str, int] | None:
    """Metric → the last step it has in the offline files of the run in `folder`; None without files of an earlier process.

    A file without any record, of a process that was killed at once, is removed: `wandb sync` would refuse all files for it.
    """
    found: dict[str, int] = {}
    files = sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
    try:
        for path in files:
            if path.stat().st_size <= HEAD:
                shutil.rmtree(path.parent)
                continue
            for record in records(path):
                if record.HasField("history"):
                    _note(record.history.item, found)
    except Exception as error:  # of a W&B that writes otherwise
        log.warning("W&B's earlier files in %s cannot be read (%s); steps may be logged twice", folder / "wandb", error)
        return None
    return found if files else None


def _note(items: Iterable[Any], found: dict[str, int]) -> None:
    row = {item.key or "/".join(item.nested_key): item.value_json for item in items}
    steps = [int(json.loads(value)) for name, value in row.items() if name.endswith(("/step", "/global_step"))]
    for name in row if steps else ():
        found[name] = max(found.get(name, -1), *steps)


def rows_before(folder: Path, stage: str, step: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps of `metrics.csv` below `step`, with their curves; `stage` is "" for a run of one stage."""
    for row in read_metrics(folder / "metrics.csv"):
        if int(row["step"]) < step and (not stage or row.get("stage") == stage):
            yield int(row["step"]), {name: float(value) for name, value in row.items() if name.startswith(CURVES)}


AXIS = "trainer/global_step"  # what curves of a run of one stage are drawn against
ANSWER_SECONDS = 10  # the server has so long to answer at all


def wandb_mode(options: Mapping[str, Any], *, ask: bool = True) -> tuple[str, str]:
    """online, offline or disabled, and why it is offline when nobody asked for that.

    Args:
        options: `mode` as in conf/logger/wandb.yaml; `WANDB_MODE` comes before it.
        ask: whether to ask the server for a word; otherwise it is taken to answer.
    """
    mode = os.environ.get("WANDB_MODE") or options.get("mode") or "auto"
    if mode in ("offline", "disabled", "dryrun"):
        return ("offline" if mode == "dryrun" else str(mode)), ""
    if not has_wandb_key():
        return "offline", "no W&B key was found"
    if ask and (silence := _silence()):
        return "offline", silence
    return "online", ""


def _silence() -> str:
    """Why the server cannot be talked to; empty when it answers, with whatever status."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(_server(), timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{_server()} does not answer ({reason})"
    return ""


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_wandb_key() -> bool:
    """Whether W&B would find a key or token: in the environment or in ~/.netrc. Asks nothing over the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import netrc

    host = _server().split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False
