"""What a run's pairs and answers are about, found again through the sources its configuration names: images and questions.

A run folder may come from anywhere. Its configuration is data: only sources are made of it, and only those that the check of a
configuration would let pass (`parallax.settings.build`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.source import as_source
from parallax.records import Conversation, ImageRef, PreferencePair, Sample
from parallax.records.images import together
from parallax.settings.build import build
from parallax.settings.check import part_problems
from parallax.settings.targets import UnknownTarget

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What one sample is about."""

    image: ImageRef  # or several, side by side
    question: str
    images: tuple[ImageRef, ...] = ()  # each of them, and those of a pair's rejected side


def evaluation_subjects(config: Mapping[str, Any]) -> dict[str, Subject]:
    """Sample id → subject, for the samples of the evaluation suites. Suites whose samples are not to be had are left out."""
    found: dict[str, Subject] = {}
    for name, suite in ((config.get("evaluation") or {}).get("suites") or {}).items():
        node = (suite or {}).get("samples")
        found |= _subjects(node, f"evaluation suite {name}") if node else {}
    return found


def pair_subjects(config: Mapping[str, Any], stage: str = "") -> dict[str, Subject]:
    """Sample id → subject, for the samples pairs are built from: of the stage's own `data` where it has one."""
    own = (config.get("stages") or {}).get(stage.rpartition("/")[2]) or {}
    return _subjects(own.get("data") or config.get("data"), "the data")


def _subjects(node: Any, what: str) -> dict[str, Subject]:
    try:
        for sentence in part_problems(node, "data"):
            raise UnknownTarget(sentence)
        made = build(node, "data")
        items: Iterable[Sample | PreferencePair] = as_source(made).pairs or made
        return dict(_subject(item) for item in items)
    except UnknownTarget as error:
        log.warning("no pictures of %s: its configuration would not pass the check (%s)", what, error)
    except Exception as error:  # a source that is gone must not cost the page
        log.warning("no pictures of %s: %s", what, " ".join(str(error).split())[:300])
    return {}


def _subject(item: Sample | PreferencePair) -> tuple[str, Subject]:
    """Of a sample, or of a pair that came ready-made."""
    if isinstance(item, PreferencePair):
        return item.sample_id, _about((*item.images, *item.rejected_images), item.conversation)
    return item.id, _about(item.images, item.conversation())


def _about(images: tuple[ImageRef, ...], asked: Conversation) -> Subject:
    return Subject(together(asked.images), asked.readable(), images)
