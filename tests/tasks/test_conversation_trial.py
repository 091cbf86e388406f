"""A model that takes no second image, system text or earlier turn says so before its weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import Image

from parallax.tasks import run_task

MODEL = Path(__file__).parents[2] / "assets" / "tiny_llava"
ONE_IMAGE = (
    "{% for message in messages %}{% if loop.first %}<image>\n{% endif %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}{% endfor %}"
)
ONE_TURN = "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}" + ONE_IMAGE
ROWS = {
    "images": [{"role": "user", "content": "<image><image>Which?"}],
    "turns": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>Which?"}],
    "plain": [{"role": "user", "content": "<image>Which?"}],
}


@pytest.fixture
def start(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Any]:
    """Runs a task on pairs of one kind, on a model without weights."""

    def start(kind: str, template: str, *more: str) -> Any:
        model, images = tmp_path / "model", ["a.png"] * (2 if kind == "images" else 1)
        model.mkdir(exist_ok=True)
        for file in MODEL.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, model)
        (model / "chat_template.jinja").write_text(template)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        said = [*ROWS[kind], {"role": "assistant", "content": "That."}]
        row = {"messages": said, "rejected_response": "This.", "images": images}
        (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 3)
        return run_task(
            compose_config(
                "method=dpo_file", f"data.path={tmp_path / 'rows.jsonl'}", f"model.path={model}", "trainer=cpu",
                "evaluation=none", "logger=none", f"paths.output_dir={tmp_path / 'run'}",
                f"paths.cache_dir={tmp_path / 'cache'}", *more,
            )
        )  # fmt: skip

    return start


@pytest.mark.parametrize("task", ["align", "build_pairs"])
def test_several_images_are_refused_where_one_is_taken(start: Callable[..., Any], task: str) -> None:
    with pytest.raises(
        ValueError, match=r"takes none of the first 3 samples.*2 images and 1 messages.*template takes one image"
    ):
        start("images", ONE_IMAGE, f"task={task}")


def test_earlier_messages_are_refused_where_the_template_has_no_place(start: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"1 images and 2 messages.*one message only"):
        start("turns", ONE_TURN)


def test_one_image_and_one_question_are_not_asked_about(start: Callable[..., Any]) -> None:
    with pytest.raises((OSError, ValueError), match="safetensors|weights"):  # the weights were to be read
        start("plain", ONE_TURN)
