"""What a dashboard's specification names: metrics of curves and summaries, configuration keys, tables; from the plain JSON."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Names:
    metrics: set[str] = field(default_factory=set)  # of a run's summary or history
    settings: set[str] = field(default_factory=set)  # dotted configuration keys
    tables: set[str] = field(default_factory=set)


def names_in(views: dict[str, Any]) -> Names:
    """Everything that W&B would look up in runs."""
    found = Names()
    for node in _nodes({name: views[name] for name in ("workspace", "report")}):
        if "viewType" in node:
            for accessor in _accessors(node):
                _sort(accessor, found)
        if node.get("nodeType") == "const" and node.get("type") == "string":
            found.tables.add(node["val"])
        for column in node.get("columnPinned", ()):
            _sort(column, found)
    return found


def panels_in(view: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in _nodes(view) if "viewType" in node]


def _accessors(panel: dict[str, Any]) -> list[str]:
    config = panel["config"]
    axes = [config[name] for name in ("xAxis", "yAxis", "zAxis", "targetKey") if name in config]
    return [*axes, *config.get("metrics", ()), *(column["accessor"] for column in config.get("columns", ()))]


def _sort(accessor: str, found: Names) -> None:
    section, colon, name = accessor.partition(":")
    if section == "run" and colon:
        return
    if section == "config" and colon:
        first, value, rest = name.partition(".value")
        assert value, f"{accessor}: W&B keeps a configuration key's value below `.value`"
        found.settings.add(first + rest)
    else:
        found.metrics.add(name if section == "summary" and colon else accessor)


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)
