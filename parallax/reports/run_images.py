"""The images behind a run, found again through the sources its configuration names. Nothing else of it is made.

A run folder may come from anywhere, so a source is only made when every class and function its configuration names is ours
(`parallax.settings.targets`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parallax.records import ImageRef
from parallax.settings.targets import UnknownTarget, signature

log = logging.getLogger(__name__)


def evaluation_images(config: Mapping[str, Any]) -> dict[str, ImageRef]:
    """Sample id → image, for the samples of the evaluation suites. Suites whose samples are not to be had are left out."""
    found: dict[str, ImageRef] = {}
    for name, suite in ((config.get("evaluation") or {}).get("suites") or {}).items():
        node = (suite or {}).get("samples")
        found |= _images(node, f"evaluation suite {name}") if node else {}
    return found


def pair_images(config: Mapping[str, Any], stage: str = "") -> dict[str, ImageRef]:
    """Sample id → image, for the samples pairs are built from: of the stage's own `data` where it has one."""
    own = (config.get("stages") or {}).get(stage.rpartition("/")[2]) or {}
    return _images(own.get("data") or config.get("data"), "the data")


def _images(node: Any, what: str) -> dict[str, ImageRef]:
    from hydra.utils import instantiate

    try:
        for target in _targets(node):
            signature(target)
        made = instantiate(node, _convert_="all")
        items: Iterable[Any] = getattr(made, "pairs", None) or made
        return {getattr(item, "sample_id", None) or item.id: item.image for item in items}
    except UnknownTarget as error:
        log.warning("no pictures of %s: its configuration names what is not ours (%s)", what, error)
    except Exception as error:  # a source that is gone must not cost the page
        log.warning("no pictures of %s: %s", what, " ".join(str(error).split())[:300])
    return {}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
            if node["_target_"] == "hydra.utils.get_method":
                yield str(node.get("path"))
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
