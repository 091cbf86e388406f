"""A folder of photographs: sorted, recursive, a prompt for each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from datamodules.formats.image_folder import ImageFolderSource
from parallax.records import BadImage

PROMPTS = ["Describe it.", "What is this?", "Say what you see."]


def test_images_are_found_in_all_subfolders_in_order(root: Path) -> None:
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"")
    names = [sample.id for sample in ImageFolderSource(root, PROMPTS)]
    assert names == sorted(names) and len(names) == 10 and names[0] == "coco/train2017/1.jpg"


def test_each_image_draws_its_prompt_by_seed_and_name(root: Path) -> None:
    for number in range(60):
        Image.new("RGB", (2, 2)).save(root / f"{number}.png")
    drawn = {s.id: s.question for s in ImageFolderSource(root, PROMPTS, seed=1)}
    assert min(Counter(drawn.values()).values()) >= 10
    (root / "0.png").unlink()  # nobody else's prompt changes
    assert {s.id: s.question for s in ImageFolderSource(root, PROMPTS, seed=1)}.items() <= drawn.items()
    assert {s.id: s.question for s in ImageFolderSource(root, PROMPTS, seed=2)} != drawn


def test_a_limit_is_counted(root: Path) -> None:
    source = ImageFolderSource(root, PROMPTS, limit=4)
    assert len(source) == 4 and source.rows == 10 == 4 + source.left_out["over_limit"]


def test_links_out_of_the_folder_are_not_opened(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (root / "a.png").symlink_to(tmp_path / "secret.png")
    sample = next(s for s in ImageFolderSource(root, PROMPTS) if s.id == "a.png")
    with pytest.raises(BadImage, match="leaves the image root"):
        sample.image.load()


def test_a_folder_without_images_or_prompts_is_refused(tmp_path: Path, root: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        len(ImageFolderSource(tmp_path / "empty", PROMPTS))
    with pytest.raises(ValueError, match="prompts=describe"):
        ImageFolderSource(root, [])
    with pytest.raises(NotADirectoryError):
        ImageFolderSource(root / "coco/train2017/1.jpg", PROMPTS)
