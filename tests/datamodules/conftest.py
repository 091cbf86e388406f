"""Real photographs in small files, and the fixture files of the readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets
from PIL import Image

PACKAGED = Path(sklearn.datasets.__file__).parent / "images"


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A real photograph, 96 x 64."""
    return Image.open(PACKAGED / "china.jpg").convert("RGB").resize((96, 64))


@pytest.fixture
def root(tmp_path: Path, photo: Image.Image) -> Path:
    """An image root with the folders of LLaVA's mix, two photographs in each."""
    for folder in ("ocr_vqa/images", "textvqa/train_images", "gqa/images", "vg/VG_100K", "coco/train2017"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in (1, 2):
            photo.rotate(90 * number, expand=True).save(tmp_path / "images" / folder / f"{number}.jpg")
    return tmp_path / "images"


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a JSON list (`.json`) or as lines (`.jsonl`)."""

    def write(rows: list[Any], name: str = "data.json") -> Path:
        path = tmp_path / name
        text = json.dumps(rows) if name.endswith(".json") else "\n".join(json.dumps(row) for row in rows)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def policy() -> Any:
    """The built-in base with a fresh adapter."""
    from tests.typed import load_policy

    assets = Path(__file__).parents[2] / "assets" / "tiny_llava"
    model = {"name": "tiny_llava", "path": str(assets), "family": "llava", "dtype": "float32"}
    return load_policy(model, {"r": 4, "enabled": True})
