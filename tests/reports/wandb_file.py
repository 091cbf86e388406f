"""Read a W&B transaction log (`run-<id>.wandb`) back: 32 KiB blocks; records with CRC, length and type; protobuf inside."""

import json
import time
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = 7


def records(path: Path) -> list[Any]:
    """Every protobuf record of the file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B", data[:7]
    position, found, partial = HEADER, [], b""
    while position + HEADER <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER:
            position += room
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]  # 1 whole, 2 first, 3 middle, 4 last
        partial += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(partial)
            found.append(record)
            partial = b""
    return found


def only_file(folder: Path, seconds: float = 60) -> Path:
    """The one .wandb file of a finished offline run in `folder`; W&B's own process writes its end a moment after `finish`."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + seconds
    while not any(record.HasField("exit") for record in records(path)):
        assert time.monotonic() < end, f"{path} has no end after {seconds} s"
        time.sleep(0.2)
    return path


def config(path: Path) -> dict[str, Any]:
    """The configuration, nested as it was given."""
    values: dict[str, Any] = {}
    for record in records(path):
        for change in (record.run.config, record.config) if record.HasField("run") else (record.config,):
            for item in change.update:
                values[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return values


def history(path: Path) -> list[dict[str, Any]]:
    """Every logged row."""
    rows = []
    for record in records(path):
        if record.HasField("history"):
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    return rows


def summary(path: Path) -> dict[str, Any]:
    """The last value of every summary key."""
    values: dict[str, Any] = {}
    for record in records(path):
        for item in record.summary.update:
            values[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return values


def tables(path: Path) -> list[dict[str, Any]]:
    """Every logged table (columns, data) with `files`: the media beside it by name, as their staged local files."""
    found = []
    for record in records(path):
        staged = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
        for name, file in staged.items():
            if name.endswith(".table.json"):
                found.append({**json.loads(file.read_text()), "files": staged})
    return found
