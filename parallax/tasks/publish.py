"""What is done with the result of a run beside keeping it: a model card in its folder and, only when asked, the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallax.models.hub import can_upload, upload
from parallax.records.atomic import atomic_write_text
from parallax.reports.model_card import model_card

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
