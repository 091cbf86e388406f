"""`README.md` of an adapter: method, data, settings, results, how to load it. What the hub shows when it is uploaded."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from parallax.models.hub import can_upload, upload
from parallax.records.atomic import atomic_write_text
from parallax.records.plain_text import code_span, front_matter, markdown, markdown_table, printable
from parallax.reports.environment import environment, without_secrets
from parallax.reports.method_words import highlights, method_in_words
from parallax.reports.metric_names import LOWER_IS_BETTER, whole_name
from parallax.reports.results import HEADLINE, is_minor
from parallax.settings.places import COMMAND, PACKAGES

HUB_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")
LOAD_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({base})
model = PeftModel.from_pretrained(model, {adapter})  # or, without peft's wrapper: model.load_adapter({adapter})
processor = AutoProcessor.from_pretrained({base})
```"""
LOAD_MODEL = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({adapter})
processor = AutoProcessor.from_pretrained({adapter})
```"""


def model_card(config: Mapping[str, Any], results: Mapping[str, Any], adapter: str = "this/folder") -> str:
    """The card of a run's result.

    Args:
        config: resolved configuration of the run.
        results: content of its `results.json`.
        adapter: how the folder is called in the example; a hub name once it is uploaded.
    """
    config = without_secrets(config)
    method, model = str(config["method"]["name"]), config["model"]
    lora = bool((config.get("lora") or {}).get("enabled", True))
    kind = "LoRA adapter" if lora else "model"
    pairs = results.get("pairs") or {}
    data = _data(config, pairs)
    parts = [
        _front(str(model["path"]), lora, ["preference-optimisation", method]),
        f"# {markdown(method)}: {kind} for {markdown(model['name'])}",
        "Made with Parallax, which lets a vision-language model learn from its own answers.",
        "## Method\n\n" + markdown(" ".join(method_in_words(config, results))),
        "## Data\n\n" + markdown_table(["", ""], data),
        "## Settings\n\n" + markdown_table(["", ""], [row for row in _settings(config, results) if row[1]]),
        "## Results\n\n" + _results(results),
        "## How to load it\n\n" + _loading(LOAD_ADAPTER if lora else LOAD_MODEL, model, adapter),
        "## How it was made\n\n" + _made(),
    ]
    return "\n\n".join(parts) + "\n"


def converted_card(config: Mapping[str, Any], source: str, counts: str) -> str:
    """The card of an adapter that was converted from the original LLaVA layout."""
    base = str(config["model"]["path"])
    parts = [
        _front(base, True, ["llava", "converted"]),
        f"# {markdown(source)}, converted",
        f"The adapter {code_span(source)} of the original LLaVA code, in the layout of Hugging Face's LLaVA. Keys: "
        f"{markdown(counts)}. "
        "Its weights are unchanged; who made it, from what and under which licence says its own page.",
        "## How to load it\n\n" + _loading(LOAD_ADAPTER, config["model"], "this/folder"),
    ]
    return "\n\n".join(parts) + "\n"


def _front(base: str, lora: bool, tags: list[str]) -> str:
    """What the hub reads. A base on disk has no name there, so it is left out."""
    front: dict[str, Any] = {"library_name": "peft" if lora else "transformers", "pipeline_tag": "image-text-to-text"}
    if HUB_NAME.fullmatch(base) and not Path(base).exists():
        front["base_model"] = base
    return front_matter({**front, "tags": [*tags, "parallax", *(["lora"] if lora else [])]})


def _data(config: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[tuple[str, str]]:
    node = config.get("data") or {}
    path = node.get("path")
    files = [path] if isinstance(path, str) else path or []
    known = [("source", str(node.get("name") or node.get("split") or str(node.get("_target_")).rpartition(".")[2]))]
    known += (
        [("files", ", ".join(file if HUB_NAME.fullmatch(file) else Path(file).name for file in files))] if files else []
    )
    more = ("parts", "sample", "limit", "size") if "name" not in node else ("split", "parts", "sample", "limit", "size")
    known += [(name, str(node[name])) for name in more if node.get(name) is not None]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in (pairs.get("dropped") or {}).items())
    known += [("pairs", f"{pairs.get('kept', 0):,} kept" + (f"; dropped: {dropped}" if dropped else ""))]
    return known


def _settings(config: Mapping[str, Any], results: Mapping[str, Any]) -> list[tuple[str, str]]:
    loss = str((config.get("loss") or {}).get("_target_") or "").rpartition(".")[2]
    stages = ", ".join((config.get("method") or {}).get("stages") or [])
    rounds = (config.get("method") or {}).get("rounds")
    found = [("stages", stages + (f", {rounds} rounds" if rounds and rounds > 1 else "")), ("objective", loss)]
    found += [(label, value) for label, value in highlights(config) if label != "data"]
    return [*found, ("optimiser steps", str(results.get("steps")))]


def _results(results: Mapping[str, Any]) -> str:
    before, after, change = (results.get(side) or {} for side in ("before", "after", "difference"))
    names = [name for name in (*HEADLINE, *after) if (after.get(name) or {}).get("value") is not None]
    names = [name for name in dict.fromkeys(names) if name in HEADLINE or not ("/" in name or is_minor(name))]
    if not names:
        return "Nothing was measured in this run."
    rows = []
    for name in names:
        better = " (lower is better)" if name in LOWER_IS_BETTER else ""
        cells = [
            _number(before.get(name)),
            _number(after.get(name)),
            _number(change.get(name), interval=True, sign=True),
        ]
        rows.append([f"{whole_name(name)}{better}", *cells])
    return markdown_table(["", "before", "after", "difference (95 % interval)"], rows)


def _number(metric: Mapping[str, Any] | None, *, interval: bool = False, sign: bool = False) -> str:
    """A share in per cent, a difference in percentage points."""
    if not metric or metric.get("value") is None:
        return "–"
    text = f"{100 * metric['value']:{'+' if sign else ''}.1f}"
    if interval and metric.get("low") is not None:
        text += f" ({100 * metric['low']:+.1f} to {100 * metric['high']:+.1f})"
    return text


def _made() -> str:
    facts = environment()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    words = [word for word in facts["command"][1:] if not _names_a_path(word)]
    command = " ".join(word if " " not in word else f"'{word}'" for word in words)
    commit = f", commit {facts['git']['commit'][:12]}" if facts["git"].get("commit") else ""
    return f"With {versions}{commit}" + (
        f": {code_span(f'{COMMAND} {command}')} (paths left out)." if command and "=" in command else "."
    )


def _names_a_path(word: str) -> bool:
    value = word.partition("=")[2]
    return "/" in value and not HUB_NAME.fullmatch(value)


def _named(base: str, name: str) -> str:
    """The base as another machine can name it: its hub name, its place in this repository, or just what it is."""
    if HUB_NAME.fullmatch(base):
        return base
    place = Path(base).expanduser().resolve()
    return place.relative_to(PACKAGES).as_posix() if place.is_relative_to(PACKAGES) else f"folder of {name}"


def _loading(code: str, model: Mapping[str, Any], adapter: str) -> str:
    names = (_named(str(model["path"]), str(model["name"])), adapter)
    base, there = (json.dumps(printable(name), ensure_ascii=False) for name in names)  # as Python writes a text too
    return code.format(base=base, adapter=there)


log = logging.getLogger(__name__)


def check_publish(config: Mapping[str, Any]) -> None:
    """Find out before anything slow begins whether the upload that was asked for is possible. Raises `CannotUpload`."""
    repository = config["export"]["push_to_hub"]
    if repository is not None:
        can_upload(repository)


def publish(config: Mapping[str, Any], results: Mapping[str, Any], adapter: Path) -> None:
    """Write the model card into the adapter's folder, and upload the folder where `export.push_to_hub` names a repository."""
    repository = config["export"]["push_to_hub"]
    atomic_write_text(adapter / "README.md", model_card(config, results, repository or "this/folder"))
    if repository is not None:
        log.info("uploaded: %s", upload(adapter, repository))
