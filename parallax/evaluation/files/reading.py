"""What all readers share: JSON with sentences for errors, fields that must be there, prompts filled in, limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parallax.records import Sample, fingerprint

Kinds = type | tuple[type, ...]


class WrongFile(ValueError):
    """A benchmark's file that is not what it should be. The message names the file, the place and what was expected."""


def read_json(path: Path | str, expected: str) -> Any:
    """The content of a JSON file. `expected` says in words what it should hold, for the error."""
    path = Path(path)
    try:
        return json.loads(existing(path, expected).read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise WrongFile(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); expected {expected}. It may be cut off: fetch it again"
        ) from None
    except UnicodeDecodeError as error:
        raise WrongFile(f"{path} is not UTF-8 text (byte {error.start}); expected {expected}") from None


def json_lines(path: Path | str, expected: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line of a JSON-lines file; the place is `<file>, line <n>`."""
    path = existing(Path(path), expected)
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise WrongFile(f"{where}: not JSON ({error}); expected {expected}") from None
            if not isinstance(row, dict):
                raise WrongFile(f"{where}: {type(row).__name__} where an object should be; expected {expected}")
            yield where, row


def existing(path: Path, expected: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected {expected}")
    return path


def field(row: Mapping[str, Any], name: str, kinds: Kinds, where: str) -> Any:
    """`row[name]`, of one of these types; a `WrongFile` that says what is there instead."""
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    value = row.get(name)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        what = (
            f"is {type(value).__name__}"
            if name in row
            else f"is missing (there are {', '.join(map(str, row)) or 'none'})"
        )
        raise WrongFile(f"{where}: {name!r} {what}; it must be {' or '.join(kind.__name__ for kind in allowed)}")
    return value


def rows_of(data: object, path: Path | str, expected: str) -> list[dict[str, Any]]:
    """`data` as a list of objects."""
    if not isinstance(data, list):
        raise WrongFile(f"{path} holds {type(data).__name__} where a list should be; expected {expected}")
    for number, row in enumerate(data, start=1):
        if not isinstance(row, dict):
            raise WrongFile(
                f"{path}, entry {number}: {type(row).__name__} where an object should be; expected {expected}"
            )
    return data


def table_of(data: object, path: Path | str, expected: str) -> dict[str, dict[str, Any]]:
    """`data` as a mapping from ids to objects."""
    if not isinstance(data, dict):
        raise WrongFile(f"{path} holds {type(data).__name__} where a mapping should be; expected {expected}")
    for name, row in data.items():
        if not isinstance(row, dict):
            raise WrongFile(
                f"{path}, entry {name!r}: {type(row).__name__} where an object should be; expected {expected}"
            )
    return data


def fill(template: str, **parts: str) -> str:
    """The template with `{name}` replaced by each part; other braces stay as they are. Lines left empty at the ends go."""
    for name, text in parts.items():
        template = template.replace("{" + name + "}", text)
    return template.strip("\n")


def first(samples: Iterable[Sample], limit: int | None, path: Path | str) -> list[Sample]:
    """At most `limit` samples; a file that gives none is an error."""
    kept: list[Sample] = []
    for sample in samples:
        if limit is not None and len(kept) >= limit:
            break
        kept.append(sample)
    if not kept:
        raise WrongFile(
            f"{path} gives no questions with an image; look whether it is the right file and the right split"
        )
    return kept


def drawn(names: Sequence[str], count: int | None, seed: int) -> list[str]:
    """`count` of the names, chosen by a hash of seed and name, in their own order: the same ones whatever else is there."""
    if count is None or count >= len(names):
        return list(names)
    chosen = set(sorted(names, key=lambda name: fingerprint([seed, name]))[:count])
    return [name for name in names if name in chosen]
