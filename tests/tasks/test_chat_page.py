"""The chat's page: a started server asked through its interface and in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from datamodules.shapes.source import ShapesSource
from parallax.settings.check import find_problems

pytest.importorskip("gradio", reason="the extra `web` is not installed")
ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "tests" / "evaluation" / "official" / "coco" / "val2014" / "COCO_val2014_000000000001.jpg"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Iterator[str]:
    """Where a real `python run.py task=chat task.web=true` answers."""
    folder = tmp_path_factory.mktemp("chat")
    command = [sys.executable, str(ROOT / "run.py"), "task=chat", "task.web=true", "task.port=0", f"adapter={adapter}",
               "trainer=cpu", "generation.max_new_tokens=24", f"paths.output_dir={folder / 'run'}",
               f"paths.cache_dir={folder / 'cache'}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
                               env={**os.environ, "PARALLAX_ROOT": str(ROOT)})  # fmt: skip
    assert process.stdout is not None
    watch = threading.Timer(180, process.kill)  # else a server that says nothing would be waited for
    watch.start()
    told = []
    for line in process.stdout:
        told.append(line)
        if " answers at http" in line:
            break
    assert told and " answers at http://127.0.0.1" in told[-1], "".join(told)
    yield told[-1].split(" answers at ")[1].split()[0]
    process.send_signal(signal.SIGINT)
    left = process.wait(30)
    watch.cancel()
    assert left in (0, 130)


def test_both_answers_come_word_by_word_and_what_is_not_in_the_scene_is_marked(address: str) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    job = client.submit(3, None, "Describe the image.", api_name="/ask")
    base, aligned = job.result(timeout=60)
    assert len(job.outputs()) > 4, "streamed"
    assert base and aligned and base != aligned
    scene = ShapesSource("pairs_habit_free", 4)[3]
    from parallax.tasks.chat_page import marked

    text = "".join(piece["token"] for piece in base)
    assert text and [(piece["token"], piece["class_or_confidence"]) for piece in base] == marked(text, scene)
    of_a_photograph = client.predict(3, handle_file(PHOTO), "Is there a circle?", api_name="/ask")
    assert all(piece["class_or_confidence"] is None for piece in of_a_photograph[0]), "its truth is not known"


def test_absent_objects_are_marked_and_present_or_denied_ones_are_not() -> None:
    from parallax.tasks.chat_page import ABSENT, marked

    scene = ShapesSource("pairs_habit_free", 1)[0]
    assert scene.objects is not None
    there = scene.objects[0]
    gone = next(f"{colour} star" for colour in ("red", "blue", "green") if f"{colour} star" not in scene.objects)
    pieces = marked(f"A {there}, a {gone}, no {gone}.", scene)
    assert [piece for piece in pieces if piece[1]] == [(gone, ABSENT)]
    assert "".join(piece for piece, _ in pieces) == f"A {there}, a {gone}, no {gone}."


@pytest.mark.browser
def test_the_page_answers_in_a_browser(address: str) -> None:
    from benchmarks.browser import Browser

    with Browser(1400, 900) as browser:
        browser.open(address)
        browser.wait(
            "document.querySelector('#aligned button, #aligned') !== null && !!document.querySelector('button.primary')"
        )
        browser.ask("document.querySelector('button.primary').click()")
        browser.wait("document.querySelector('#aligned').innerText.split(' ').length > 4")
        if folder := os.environ.get("PARALLAX_PICTURES"):
            for width in (1400, 420):
                browser.resize(width, 900)
                browser.picture(Path(folder) / f"chat-{width}.png", whole=True)
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth")


def test_without_gradio_the_page_is_refused_in_a_sentence(compose_config, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("parallax.settings.needed.find_spec", lambda name: None)
    cfg: DictConfig = compose_config("task=chat", "task.web=true")
    assert "pip install 'gradio" in find_problems(cfg)["task.web"]
