"""Make the pictures of README.md, docs/sweeps.md and docs/comparing.md anew, from runs of the built-in model.

    python docs/make_pictures.py [FOLDER]                 runs go to FOLDER, outputs/pictures by default; pictures to docs/images

Nine runs of SeVa as a multirun, the same nine as `task=sweep` with the same cache, the gallery of one of them; then a headless
Chromium takes the pictures. About twenty minutes on two busy cores. What is in FOLDER already is not run again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "docs"))]

from benchmarks.browser import Browser
from benchmarks.gallery import SEEN, SETTLED

IMAGES = ROOT / "docs" / "images"
SIZES = ["data.size=600", "evaluation.scenes=300", "evaluation.pope_scenes=30"]
GRID = ["aug.noise_steps=300,500,700", "loss.beta=0.3,1.0,3.0"]
SWEEP = """\
# SeVa: how strong the noise, how tight the reference?
name: nine
program: run.py
method: grid
metric: {name: eval/chair_i, goal: minimize}
parameters:
  aug.noise_steps: {values: [300, 500, 700]}
  loss.beta: {values: [0.3, 1.0, 3.0]}
command: ["${env}", "${interpreter}", "${program}", method=seva, logger=wandb, "${args_no_hyphens}"]
"""
MADE = (
    "pair", "sweep_terminal", "compare_noise_steps", "compare_table", "compare_settings", "compare_curves", "compare_answers",
    "gallery_pairs", "gallery_answers",
)  # fmt: skip
SHOWN = "4"  # the run whose gallery is shown, and whose pair stands in README.md: noise step 500, beta 1
WIDTH = 110  # characters of a line of the terminal's picture
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; background: #f6f7f9; display: inline-block; }
pre { margin: 0; padding: 18px 22px; background: #1b2130; color: #dfe4ee; border-radius: 10px;
  font: 14px/1.45 "DejaVu Sans Mono", monospace; }
</style><pre>%s</pre>"""


def main() -> None:
    folder = Path(sys.argv[1] if sys.argv[1:] else ROOT / "outputs" / "pictures").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nine.yaml").write_text(SWEEP)
    _once(folder / "many.txt", ["-m", "method=seva", *GRID, *SIZES, "hydra.sweep.dir=many", "paths.cache_dir=cache"])
    here = ["task=sweep", "sweep=nine.yaml", *SIZES, "task.folder=sweep", "paths.cache_dir=cache"]
    said = _once(folder / "sweep.txt", here)
    words = ["task=compare", "runs=many", "task.pictures=true", "task.output=compared"]
    _once(folder / "compared.txt", words)
    _once(folder / "gallery.txt", ["task=gallery", f"run=many/{SHOWN}"])
    run = folder / "many" / SHOWN
    (IMAGES / "compare_noise_steps.png").write_bytes((folder / "compared" / "compare_noise_steps.png").read_bytes())
    _pair(run)
    _terminal(said, folder)
    _comparison(folder / "many" / "compare.html")
    _gallery(run / "gallery.html")
    for name in MADE:
        _with_fewer_colours(IMAGES / f"{name}.png")


def _once(note: Path, words: list[str]) -> str:
    """What `python run.py <words>` prints, as a terminal would show it; from the file of an earlier call where there is one."""
    if not note.is_file():
        print("python run.py", *words, flush=True)
        environment = {**os.environ, "WANDB_MODE": "offline", "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words], cwd=note.parent, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"it failed:\n{done.stdout[-3000:]}")
        note.write_text(done.stdout)
    return note.read_text()


def _pair(run: Path) -> None:
    """The first pair whose chosen answer is the truth, word by word, and whose rejected answer is as long."""
    import yaml
    from hydra.utils import instantiate

    from parallax.reports.pair_picture import draw_pair, pairs_of_run

    data = instantiate(yaml.safe_load((run / "config.yaml").read_text())["data"], _convert_="all")
    truth = {sample.id: sample.answer for sample in data}
    same = [pair for pair in pairs_of_run(run) if pair.chosen.text == truth[pair.sample_id]]
    alike = [pair for pair in same if len(pair.rejected[0].text.split()) == len(pair.chosen.text.split()) < 30]
    draw_pair((alike or same)[0], IMAGES / "pair.png")


def _terminal(said: str, folder: Path) -> None:
    """The last lines of the sweep, coloured as a terminal colours them."""
    from io import StringIO

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, file=StringIO(), width=WIDTH, force_terminal=True)
    console.print(Text.from_ansi(f"$ python run.py task=sweep sweep=nine.yaml {' '.join(SIZES)}\n{said.rstrip()}"))
    page = folder / "terminal.html"
    page.write_text(TERMINAL % console.export_html(inline_styles=True, code_format="{code}"))
    with Browser(1000, 600) as browser:
        browser.open(page.as_uri())
        size = browser.ask("(() => { const b = document.querySelector('pre').getBoundingClientRect();"
                           " return [Math.ceil(b.width), Math.ceil(b.height)]; })()")  # fmt: skip
        browser.resize(*size)
        browser.picture(IMAGES / "sweep_terminal.png")


def _comparison(page: Path) -> None:
    with Browser(1280, 860) as browser:
        browser.open(page.as_uri())
        browser.click("#runs th[data-sort='metric:chair_i'] button")
        _shoot(browser, "h1", "compare_table", 1280, 1010)
        _shoot(browser, "#against", "compare_settings", 1280, 880, heading=True)
        _shoot(browser, "#curves", "compare_curves", 1280, 640, heading=True)
        browser.click("#disagree")
        _shoot(browser, "#answers", "compare_answers", 1280, 800, heading=True)


def _gallery(page: Path) -> None:
    with Browser(1400, 860) as browser:
        browser.open(page.as_uri())
        browser.wait(SEEN)
        _set(browser, "#search", "yellow")
        browser.wait(f"{SETTLED} && {SEEN}")
        _settle(browser)
        browser.picture(IMAGES / "gallery_pairs.png")
        browser.click("#sets button[data-set='answers']")
        browser.wait(SETTLED)
        options = "[...document.querySelectorAll('#fact-change option')]"
        _set(browser, "#fact-change", browser.ask(f"{options}.find((o) => o.textContent.startsWith('improved')).value"))
        browser.wait(f"{SETTLED} && {SEEN}")
        _settle(browser)
        browser.picture(IMAGES / "gallery_answers.png")


def _set(browser: Browser, selector: str, value: str) -> None:
    browser.ask(f"(() => {{ const e = document.querySelector({selector!r}); e.value = {value!r};"
                " e.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip


def _shoot(browser: Browser, selector: str, name: str, width: int, height: int, *, heading: bool = False) -> None:
    """A picture of the page from an element on, or from the heading above it."""
    browser.resize(width, height)
    above = "while (e.previousElementSibling && e.tagName !== 'H2') e = e.previousElementSibling;" if heading else ""
    browser.ask(f"(() => {{ let e = document.querySelector({selector!r}); {above}"
                " window.scrollTo(0, window.scrollY + e.getBoundingClientRect().top - 20); })()")  # fmt: skip
    _settle(browser)
    browser.picture(IMAGES / f"{name}.png")


def _with_fewer_colours(path: Path) -> None:
    """256 colours are enough for a page, and a third of the bytes."""
    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def _settle(browser: Browser) -> None:
    """Pictures in view have loaded (those outside may wait until they are seen), and nothing moves any more."""
    in_view = "(i) => { const b = i.getBoundingClientRect(); return b.bottom > 0 && b.top < innerHeight; }"
    browser.wait(f"[...document.images].filter({in_view}).every((i) => i.complete)")
    browser.ask("new Promise((done) => setTimeout(done, 400))")


if __name__ == "__main__":
    main()
