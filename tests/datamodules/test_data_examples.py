"""Every example in docs/data.md runs as it stands, on real photographs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from parallax.preference.filters import REASONS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
BLOCK = re.compile(r"^```(json|python)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_document_run(tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("coco/train2017/7.jpg", "ocr_vqa/images/1.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        photo.save(tmp_path / "images" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    blocks = BLOCK.findall(DOCUMENT)
    for _, name, text in blocks:
        if name:
            Path(name).write_text(text)
    scripts = [text for language, _, text in blocks if language == "python"]
    assert len(scripts) >= 5 and sum(bool(name) for _, name, _ in blocks) >= 5
    names: dict[str, object] = {}
    for script in scripts:
        exec(compile(script, "docs/data.md", "exec"), names)


def test_every_reason_for_a_drop_is_explained() -> None:
    for reason in REASONS:
        assert f"`{reason}`" in DOCUMENT, reason
