"""Rows of any form by the names of their columns (`data.columns`): which column holds what, told by the user.

A column may be reached through others with dots (`text.question`), where `text` is an object or a JSON text of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from datamodules.formats.preference.base import Choices, RawPair, Row, images_in, make_pair
from datamodules.formats.preference.llama_factory import with_system
from datamodules.formats.preference.messages import answer_of, answers_of, messages_of
from parallax.settings.suggestions import closest, or_list

ROLES = ("question", "chosen", "rejected", "image", "rejected_image", "system", "id", "source")
NEEDED = ("question", "chosen", "rejected", "image")


def by_names(columns: Mapping[str, str | None]) -> Any:
    """A reader of rows. Raises ValueError for roles that are not known or missing."""
    if unknown := sorted(set(columns) - set(ROLES)):
        raise ValueError(f"data.columns.{unknown[0]} is no role; roles are {', '.join(ROLES)}")
    given = {role: column for role, column in columns.items() if column is not None}
    if missing := [role for role in NEEDED if role not in given]:
        raise ValueError(f"data.columns.{missing[0]} is not given; {', '.join(NEEDED)} are needed")

    def read(row: Row, _: Choices) -> list[RawPair]:
        value = {role: _reached(row, column) for role, column in given.items()}
        asked = with_system(value, messages_of(value["question"], given["question"]))
        rejected = answers_of(value["rejected"], given["rejected"])
        own = {"id": value.get("id"), "data_source": value.get("source")}
        other = images_in(value, "rejected_image")
        return [
            make_pair(
                asked, images_in(value, "image"), answer_of(value["chosen"], given["chosen"]), rejected, other, row=own
            )
        ]

    return read


def check_reached(columns: Mapping[str, str | None], rows: Sequence[Row], path: str) -> None:
    """Raises ValueError for a needed column that none of the rows has."""
    for role in NEEDED:
        column = columns.get(role)
        if column and rows and all(_reached(row, column) is None for row in rows):
            near = closest(column, tuple(rows[0]))
            raise ValueError(
                f"data.columns.{role}={column}: {path} has no such column; it has {', '.join(map(str, rows[0]))}."
                + (f" Did you mean {or_list(near)}?" if near else "")
            )


def _reached(row: Row, column: str) -> Any:
    """What a column holds; through objects and JSON texts where its name has dots and no column has that name."""
    if column in row:
        return _opened(row[column])
    value: Any = row
    for name in column.split("."):
        value = _opened(value)
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return _opened(value)


def _opened(value: object) -> Any:
    """JSON texts of objects and lists as what they hold."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(value)
    return value
