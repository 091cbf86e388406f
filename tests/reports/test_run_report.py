"""The run report: self-contained, complete, and with every word of models, data and files escaped."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parallax.evaluation import Evaluation, EvaluationItem
from parallax.records import Message, PreferencePair, Response, Sample, Turn
from parallax.records.images import FileImage, together
from parallax.reports.environment import write_environment
from parallax.reports.gallery_items import _pair_item
from parallax.reports.metrics_csv import MetricsCsv
from parallax.reports.results import make_results, write_results
from parallax.reports.run_report import write_report

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Tags with attributes, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evaluation(answer: str, right: int) -> Evaluation:
    items = [
        EvaluationItem("accuracy", f"s{i}{EVIL}", f"{i}", "colour", f"Which {EVIL}?", f"truth {EVIL}", answer, True,
                       {"accuracy": (float(i < right), 1.0)})
        for i in range(30)
    ]  # fmt: skip
    return Evaluation.from_items(items, bootstrap_draws=50)


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    """A finished run folder and what `write_report` is given beside it; every text is hostile."""
    folder = tmp_path / "run"
    stage = folder / "stages" / "align"
    config = {
        "method": {"name": "seva"},
        "model": {"name": EVIL, "path": "none"},
        "aug": {"_target_": "augment.diffusion.Diffusion", "noise_steps": 500},
        "tags": [EVIL],
    }
    write_environment(folder, config)
    before, after = evaluation(f"old {EVIL}", 10), evaluation(f"new {EVIL}", 25)
    before.save(stage / "eval_before.json")
    after.save(stage / "eval_after.json")
    write_results(
        folder / "results.json", make_results(before, after, pairs={"kept": 3, "dropped": {EVIL: 2}}, steps=4)
    )
    curves = MetricsCsv(stage)
    for step in range(1, 5):
        curves.log_metrics(
            {"train/loss": 0.7 / step, "train/rewards/chosen": -0.1 * step, "train/rewards/margins": 0.2}, step
        )
    images = tmp_path / "images"
    images.mkdir()
    name = "a'b & <c>.png"
    Image.new("RGB", (60, 40), "orange").save(images / name)
    image = FileImage(str(images), name)
    view = {"name": "diffusion", "params": {"noise_steps": 500}, "seed": 1}
    rejected = Response(f"no {EVIL}", provenance={"view": view})
    pair = PreferencePair(f"p{EVIL}", EVIL, image, f"What {EVIL}?", Response(f"yes {EVIL}"), (rejected,), EVIL)
    gone = replace(pair, sample_id="gone", image=FileImage(str(images), "missing.png"))
    samples = [Sample(f"s{i}{EVIL}", "x", image, (Turn("?", "!"),)) for i in range(30)]
    return {
        "run_folder": folder,
        "pairs": {"align": [pair, pair, gone]},
        "samples": samples,
        "warnings": [f"warn {EVIL}"],
    }


def test_nothing_a_model_or_file_says_becomes_markup(run: dict[str, Any]) -> None:
    html = write_report(**run).read_text()
    page = Page(html)
    assert page.of("script") == [] and not any("onerror" in attributes for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for said in ("What", "yes", "no", "old", "new", "warn", "truth"):  # … and is readable as it was said
        assert re.sub(r"\s", "", f"{said} {EVIL}") in re.sub(r"\s", "", page.text), said
    assert all((image["src"] or "").startswith("data:image/") for image in page.of("img"))
    assert page.of("link") == [] and not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)", html)
    assert "default-src 'none'" in html


def test_everything_a_reader_looks_for_is_there(run: dict[str, Any]) -> None:
    page = Page(write_report(**run).read_text())
    for words in ("What was done", "Worth knowing", "Before and after", "Training", "Pairs the model made", "step 500",
                  "Answers that improved", "To run it again", "33.3 %", "83.3 %", "fell below zero", "2 dropped"):  # fmt: skip
        assert words in page.text, words
    assert "Answers that got worse" not in page.text  # none did
    assert len(page.of("svg")) == 2 and len(page.of("mark")) > 4
    images = [image["alt"] for image in page.of("img")]
    assert images.count("the clean image") == 2 and images.count("the image as the rejected answer saw it") == 2
    assert "image not available" in page.text  # the pair whose file is gone is still shown
    assert (
        "config" in page.text
        and "@media (prefers-color-scheme: dark)" in Path(run["run_folder"], "report.html").read_text()
    )


def test_a_conversation_is_shown_whole_and_so_are_the_images_of_the_rejected_side(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    first, other = FileImage(str(tmp_path), "a.png"), FileImage(str(tmp_path), "b.png")
    asked = (Message("system", ("Be brief.",)), Message("user", ("Is ", first, " like ", other, "?")))
    said = Response("Yes.", provenance={"file": "pairs.json", "row": 1})
    pair = PreferencePair(
        "p", "file", first, "Is  like ?", said, (said,), messages=asked, rejected_images=(other, first)
    )
    page = Page(write_report(tmp_path / "run", pairs={"align": [pair]}).read_text())
    assert "system: Be brief.\nuser: Is [image 1] like [image 2]?" in page.text and "Pairs of the file" in page.text
    clean, rejected = (image["src"] for image in page.of("img"))
    assert clean != rejected and "on the rejected side" in page.text
    item = _pair_item(pair, "align")
    assert item.others is not None and item.others.digest() == together((other, first)).digest()
    assert item.data["rejected"][0]["view"] == "on the rejected side" and "[image 2]" in item.data["prompt"]


def test_a_corrupted_image_is_not_the_clean_one(run: dict[str, Any]) -> None:
    page = Page(write_report(**run).read_text())
    clean, corrupted = (image["src"] for image in page.of("img")[:2])
    assert clean != corrupted


def test_the_gallery_is_capped(run: dict[str, Any]) -> None:
    run["pairs"] = [run["pairs"]["align"][0]] * 100
    page = Page(write_report(**run, max_pairs=5, max_examples=2).read_text())
    assert "5 of 100 pairs" in page.text and len([t for t in page.tags if t[1].get("class") == "card"]) == 5
    assert len([t for t in page.tags if "improved" in (t[1].get("class") or "")]) == 2


def test_a_bare_folder_still_gives_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text())
    assert "Parallax run report" in page.text and page.of("img") == []
    (tmp_path / "results.json").write_text(json.dumps(make_results(evaluation("a", 3), None)))
    assert "10.0" in Page(write_report(tmp_path).read_text()).text


def test_a_measurement_alone_tells_of_no_training_and_shows_one_column(tmp_path: Path) -> None:
    write_environment(
        tmp_path, {"task": {"name": "evaluate"}, "method": {"name": "seva"}, "model": {"name": "tiny"}, "seed": 1}
    )
    write_results(tmp_path / "results.json", make_results(None, evaluation("a", 3), method="evaluate"))
    text = Page(write_report(tmp_path).read_text()).text
    assert "tiny was measured as it is. Nothing was trained." in text and "Results" in text
    assert "difference" not in text and "Before and after" not in text and "10.0 %" in text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_runs_nothing_of_it(run: dict[str, Any], tmp_path: Path) -> None:
    report = write_report(**run)
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'chrome'}",
        "--dump-dom",
    ]
    done = subprocess.run([*command, report.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    page = Page(done.stdout)
    assert page.of("script") == [] and "Before and after" in page.text
    assert len([image for image in page.of("img") if image.get("src") == "x"]) == 0
