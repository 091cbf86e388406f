"""docs/extending.md holds: its own text, written into a copy of the program, is accepted by everything and runs to the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
FILES = dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL))
USES = {  # what is typed for each part of the page
    "vignette": ["aug=vignette"],
    "squared_hinge": ["loss=squared_hinge", "loss.margin=2", "pairs.num_negatives=2", "aug.noise_steps=900"],
    "brevity": ["method=sima", "judge=brevity"],
    "warmer": ["method=warmer", "loss=multi_negative", "pairs.num_negatives=2"],
    "alike_in_length": ["method=seva_alike"],
    "tab_separated": ["data=tab_separated", "data.path=questions.tsv", "data.image_root=pictures"],
    "repetition": ["evaluation=repetition", "evaluation.repetition_scenes=4"],
    "seva_then_sft": ["method=seva_then_sft"],
    "count_objects": ["task=count_objects"],
}
WRONG = {  # a value out of range, and a mistyped key: the key that each names
    "vignette": ("aug.strength=-7", "aug.strenght=1"),
    "squared_hinge": ("loss.margin=abc", "loss.marign=1"),
    "brevity": ("judge.fine=-1", "judge.limits=3"),
    "warmer": ("stages.align.proposer.step=0", "stages.align.proposer.view=1"),
    "alike_in_length": ("stages.align.selector.ratio=0.5", "stages.align.selector.raito=3"),
    "tab_separated": ("data.limit=0", "data.lmit=3"),
    "repetition": ("evaluation.suites.repetition.window=0", "evaluation.suites.repetition.widow=3"),
    "seva_then_sft": ("stages.settle.trainer.max_epochs=0", "stages.settle.trainer.epochs=1"),
    "count_objects": ("task.most=0", "task.msot=3"),
}
SMALL = [
    "data.size=12", "debug.max_steps=1", "trainer=cpu", "logger=none", "evaluation.bootstrap=0", "debug.limit_evaluation=4",
]  # fmt: skip
CHILD = """
import json, sys
from parallax import compose, run
for line in sys.stdin:
    act, words = json.loads(line)
    try:
        if act == "compose":
            compose(words)
            said = "composed"
        else:
            results = run(words)
            report = results.folder / "report.html"
            said = {**results, "report": report.read_text("utf-8") if report.is_file() else ""}
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print("SAID " + json.dumps(said), flush=True)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with every file of the page in it, and some data."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("augment", "conf", "datamodules", "lightning_modules", "parallax", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "images"))
    for name in ("run.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "assets").symlink_to(ROOT / "assets")
    for path, text in FILES.items():
        assert not (folder / path).exists(), f"{path} is there already"
        (folder / path).write_text(text, "utf-8")
    (folder / "pictures").mkdir()
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (64, 64), (20 * number, 255 - 20 * number, 90)).save(folder / "pictures" / f"{number}.png")
    lines = [f"{number}.png\tWhat is in the image?\tNothing." for number in range(12)]
    (folder / "questions.tsv").write_text("\n".join([*lines, "nameless.png"]), "utf-8")
    return folder


def tell(copy: Path, *commands: tuple[str, list[str]]) -> list[Any]:
    """What a process of the copy says to each: "composed", the facts of a run, or the error."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("PARALLAX")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input="\n".join(json.dumps(command) for command in commands),
        cwd=copy, env={**unset, "PYTHONPATH": str(copy)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    said = [json.loads(line.removeprefix("SAID ")) for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert len(said) == len(commands), done.stdout[-3000:] + done.stderr[-3000:]
    return said


def test_the_page_shows_two_files_for_every_kind_of_part() -> None:
    assert len(FILES) == 17 and set(USES) == set(WRONG)
    for name in USES:
        assert any(Path(path).stem == name for path in FILES), name


def test_the_check_accepts_each_part_and_refuses_a_wrong_value_and_a_mistyped_key(copy: Path) -> None:
    commands = [
        ("compose", [*words, *more]) for name, words in USES.items() for more in ([], *([w] for w in WRONG[name]))
    ]
    said = iter(tell(copy, *commands))
    for name in USES:
        assert next(said) == "composed", name
        for wrong in WRONG[name]:
            key = wrong.partition("=")[0]
            sentence = next(said)
            assert sentence.startswith("ConfigError: ") and key in sentence and "\n" not in sentence, (wrong, sentence)


def test_the_documentation_takes_each_part_in(copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_reference.py"], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = "\n".join(file.read_text("utf-8") for file in (copy / "docs" / "reference").glob("*.md"))
    for row in (
        "| `aug=vignette` | Darkens the corners. |",
        "| `aug.strength` | `0.8` | a number from 0 to 1 | how dark the corners are: 0 leaves them, 1 makes them black |",
        "| `loss.margin` | `1.0` | a number above 0 |",
        "| `judge=brevity` | Prefers short answers. |",
        "| `method=warmer` |",
        "| `data=tab_separated` |",
        "| `evaluation.repetition_scenes` | `100` |",
        "| `task.most` | `10` | an integer of 1 or more |",
    ):
        assert row in page, row


@pytest.mark.slow
def test_each_part_runs_to_the_end_of_a_small_run(copy: Path) -> None:
    said = tell(copy, *[("run", [*words, *(w for w in SMALL if not (words[0] == "data=tab_separated" and w == "data.size=12"))])
                        for words in USES.values()])  # fmt: skip
    of = dict(zip(USES, said, strict=True))
    stopped = {name: facts for name, facts in of.items() if not isinstance(facts, dict) or facts.get("steps") == 0}
    assert not stopped and sum(of["count_objects"]["objects"].values()) > 12
    assert "repetition" in json.dumps(of["repetition"]["after"])
    assert "The method warmer was run: The greedy answer is chosen" in of["warmer"]["report"]
    assert "a corrupted view of it (vignette)" in of["vignette"]["report"]
    assert "tuned on them with Squared hinge, β =" in of["squared_hinge"]["report"]
