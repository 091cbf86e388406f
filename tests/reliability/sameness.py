"""What of a run folder must be the same, to the last bit, however often the run was stopped on its way."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

TIMES = {"seconds", "wait_share", "started", "ended", "moment"}  # how long things took is not part of the result
PLACES = {"pair_set", "checkpoint", "adapter", "output_dir", "cache_dir", "resume"}
EFFORT = {
    "built",
    "reused",
    "references",
    "computed",
    "memory",
    "padding",
}  # nor what was found in the cache, nor free memory


def results_of(folder: Path) -> dict[str, Any]:
    """File (or fact) → content or digest, for a finished run."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "metrics.csv":
            with path.open(newline="") as file:
                found[name] = [
                    {k: v for k, v in row.items() if k.split("/")[-1] not in EFFORT} for row in csv.DictReader(file)
                ]
        elif path.name in ("results.json", "pairs.json", "fit.json", "manifest.json") or path.name.startswith("eval_"):
            found[name] = _steady(json.loads(path.read_text()))
            if path.name == "pairs.json":
                found[f"{name} content"] = pairs_of(json.loads(path.read_text())["pair_set"])
    return found


def only_run(folder: Path) -> Path:
    """The one run folder below outputs/."""
    (found,) = [path.parent for path in (folder / "outputs").glob("*/*/results.json")]
    return found


def bytes_that_differ(one: Path, other: Path) -> list[str]:
    """Files of two runs of the same command that are not the same byte for byte, among those that hold no times and places."""
    kinds = (".safetensors", ".ckpt", ".csv", ".parquet")
    files = {
        path.relative_to(one) for path in one.rglob("*") if path.suffix in kinds or path.name == "adapter_config.json"
    }
    assert len(files) >= 5, f"there is little to compare: {files}"
    wrong = [str(file) for file in sorted(files) if (one / file).read_bytes() != (other / file).read_bytes()]
    for folder in ("pairs", "references"):
        sets = [sorted((run.parents[2] / "cache" / folder).rglob("pairs.parquet")) for run in (one, other)]
        wrong += [str(a) for a, b in zip(*sets, strict=True) if a.read_bytes() != b.read_bytes()]
    return wrong


def pairs_of(folder: str) -> list[str]:
    """Every pair of a pair set, in order, as text."""
    from pyarrow import parquet

    return [json.dumps(row, sort_keys=True) for row in parquet.read_table(Path(folder) / "pairs.parquet").to_pylist()]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _steady(value: Any) -> Any:
    left_out = TIMES | PLACES | EFFORT
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in left_out}
    return [_steady(item) for item in value] if isinstance(value, list) else value
