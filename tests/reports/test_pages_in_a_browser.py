"""Comparison, gallery and report in a real browser, opened from files: they work, and run nothing but their own script."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.browser import Browser
from benchmarks.gallery import ROWS, SEEN, SETTLED, make_run
from parallax.records import PreferencePair, Response
from parallax.records.pair_store import PairSet
from parallax.reports.comparison import compare_runs
from parallax.reports.gallery import write_gallery
from parallax.reports.run_report import write_report
from tests.faults import Injected
from tests.reports.run_folders import evaluation, write_grid, write_run

pytestmark = pytest.mark.browser
PICTURES = os.environ.get("PARALLAX_PICTURES")  # a folder in which pictures of the pages are kept to be looked at
VIOLENCE = "document.title = 'ran'; globalThis.ran = true"
EVIL = f'</script><script>{VIOLENCE}</script><img src=x onerror="{VIOLENCE}"><svg onload="{VIOLENCE}">'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(1280, 900) as one:
        yield one


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    return compare_runs([write_grid(folder / "many")], folder)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 pairs and 100 dropped samples without pictures, but the first hundred items have theirs."""
    run = make_run(tmp_path_factory.mktemp("gallery") / "run", 1000, 100)
    evaluation(20).save(run / "stages" / "align" / "eval_before.json")
    evaluation(5).save(run / "stages" / "align" / "eval_after.json")
    return write_gallery(run, run, thumbnail=0)


def open_page(browser: Browser, page: Path) -> None:
    browser.said.clear()
    browser.open(page.as_uri())


def rows(browser: Browser, column: int) -> list[str]:
    """The first line of each shown run's cell in a column of the table."""
    cells = f"[...document.querySelectorAll('#runs tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[{column}])"
    return list(browser.ask(f"{cells}.map((c) => c.firstChild.textContent)"))


def set_value(browser: Browser, selector: str, value: str, event: str = "input") -> None:
    browser.ask(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
                f" e.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()")  # fmt: skip


def picture(browser: Browser, name: str, *, whole: bool = False) -> None:
    if PICTURES:
        browser.picture(Path(PICTURES) / f"{name}.png", whole=whole)


def test_the_table_sorts_by_numbers_and_says_so(browser: Browser, comparison: Path) -> None:
    open_page(browser, comparison)
    chair = browser.ask(
        "[...document.querySelectorAll('#runs thead th')].findIndex((h) => h.dataset.sort === 'metric:chair_i')"
    )
    browser.click("#runs th[data-sort='metric:chair_i'] button")
    values = [float(text.split()[0]) for text in rows(browser, chair)]
    assert values == sorted(values) and len(set(values)) > 4
    assert browser.ask("document.querySelector('#runs tbody tr .best, #runs tbody tr.best') !== null")
    assert (
        browser.ask("document.querySelector(\"th[data-sort='metric:chair_i']\").getAttribute('aria-sort')")
        == "ascending"
    )
    browser.ask("document.querySelector(\"th[data-sort='metric:chair_i'] button\").focus()")
    browser.press("Enter")  # the keyboard does what the mouse does
    assert [float(text.split()[0]) for text in rows(browser, chair)] == values[::-1]
    assert browser.said == []
    picture(browser, "compare_sorted")


def test_a_filter_leaves_runs_out_of_table_curves_and_charts(browser: Browser, comparison: Path) -> None:
    open_page(browser, comparison)
    lines = "new Set([...document.querySelectorAll('#curves polyline')].map((p) => p.dataset.run)).size"
    assert browser.ask(lines) == 9 and browser.ask("document.querySelectorAll('#against figure').length") == 2
    set_value(browser, "#filter", "noise_steps=500 -beta=0.3")
    browser.wait(f"{lines} === 2")
    assert rows(browser, 2) and len(rows(browser, 2)) == 2
    assert browser.ask("document.getElementById('count').textContent") == "2 of 9 runs"
    assert browser.ask("document.querySelectorAll('#against figure:first-child circle').length") == 2
    browser.click("#runs tbody tr:not([hidden]) input")
    browser.wait(f"{lines} === 1")  # unticked: still in the table, not drawn
    assert len(rows(browser, 2)) == 2
    set_value(browser, "#filter", "nothing like it")
    browser.wait("document.getElementById('count').textContent === '0 of 9 runs'")
    assert browser.said == []


def test_the_heat_map_has_a_cell_for_each_pair_of_values(browser: Browser, comparison: Path) -> None:
    open_page(browser, comparison)
    cells = "[...document.querySelectorAll('table.heat tbody tr')].map((r) => [...r.cells].map((c) => c.textContent.trim()))"
    assert [len(row) for row in browser.ask(cells)] == [4, 4, 4]
    best = browser.ask("document.querySelector('table.heat td.best').textContent")
    assert best.startswith("1.7 %") and browser.ask("document.querySelectorAll('table.heat td.best').length") == 1
    set_value(browser, "#heat-metric", "recall", "change")
    browser.wait("document.querySelector('table.heat td.best').textContent.startsWith('98.3 %')")


def test_answers_of_all_runs_stand_side_by_side(browser: Browser, comparison: Path) -> None:
    open_page(browser, comparison)
    said = "[...document.querySelector('#answers article').querySelectorAll('.chips')].map((c) => c.children.length)"
    assert sum(browser.ask(said)) == 10  # nine runs and the model before training
    assert browser.ask("document.querySelector('#answers img').naturalWidth") > 0
    marked = set(browser.ask("[...document.querySelectorAll('#answers mark')].map((m) => m.textContent.trim())"))
    assert marked == {"and a ghost"}
    browser.click("#disagree")
    set_value(browser, "#words", "ghost -blue")
    browser.wait("document.getElementById('asked').textContent.startsWith('12 of')")
    assert browser.said == []


def test_the_gallery_holds_only_what_is_in_view(browser: Browser, gallery: Path) -> None:
    open_page(browser, gallery)
    browser.wait(SEEN)
    assert 4 <= browser.ask(f"{ROWS}.length") <= 20
    assert browser.ask("document.getElementById('status').textContent").startswith("1,100 of 1,100")
    browser.ask("(() => { const l = document.getElementById('list'); l.scrollTop = l.scrollHeight / 2; })()")
    browser.wait(f"{SEEN} && Math.min(...[...{ROWS}].map((r) => r.ariaPosInSet)) > 400")
    assert browser.ask(f"{ROWS}.length") <= 20 and browser.ask("document.querySelectorAll('script[src]').length") < 5
    assert browser.said == []


def test_the_gallery_filters_sorts_and_searches(browser: Browser, gallery: Path) -> None:
    open_page(browser, gallery)
    browser.wait(SEEN)
    outcome = browser.ask("[...document.querySelectorAll('#fact-outcome option')].map((o) => o.textContent)")
    assert outcome == ["all", "kept (1,000)", "dropped: equal (66)", "dropped: truncated (34)"]
    value = "[...document.querySelectorAll('#fact-outcome option')].find((o) => o.textContent.startsWith('dropped: equal')).value"
    set_value(browser, "#fact-outcome", browser.ask(value))
    browser.wait(f"document.getElementById('status').textContent.startsWith('66 of') && {SETTLED}")
    browser.wait("document.querySelector('#detail .warnings') !== null")
    browser.click("#reset")
    browser.wait("document.getElementById('status').textContent.startsWith('1,100 of')")
    set_value(browser, "#low-margin", "9")
    set_value(browser, "#order", "margin down")
    browser.wait("document.getElementById('status').textContent.startsWith('200 of')")
    browser.wait("document.querySelector('#detail dl').textContent.includes('margin of scores10.9')")
    browser.click("#reset")
    browser.wait("document.getElementById('status').textContent.startsWith('1,100 of')")
    set_value(browser, "#search", "ghost777.")
    browser.wait("document.getElementById('status').textContent.startsWith('1 of')")
    assert browser.ask("document.querySelector('#detail .answer.rejected mark').textContent").endswith("ghost777.")
    assert browser.said == []


def test_the_gallery_works_by_keyboard_and_names_its_parts(browser: Browser, gallery: Path) -> None:
    open_page(browser, gallery)
    browser.wait(SEEN)
    browser.ask("document.getElementById('list').focus()")
    browser.press("ArrowDown", 3)
    browser.press("End")
    active = "document.getElementById(document.getElementById('list').getAttribute('aria-activedescendant'))"
    browser.wait(f"{active} !== null && {active}.getAttribute('aria-posinset') === '1100'")
    assert browser.ask(f"[{active}.getAttribute('aria-selected'), {active}.getAttribute('aria-setsize')]") == [
        "true",
        "1100",
    ]
    browser.press("Enter")
    assert browser.ask("document.activeElement.id") == "detail"
    browser.press("Escape")
    browser.press("Home")
    browser.wait(f"{active}.getAttribute('aria-posinset') === '1'")
    browser.press("/")
    assert browser.ask("[document.activeElement.id, document.activeElement.value]") == ["search", ""]
    nameless = (
        "[...document.querySelectorAll('input, select, button, img')].filter((e) => !(e.labels && e.labels.length) &&"
        " !e.getAttribute('aria-label') && !e.textContent.trim() && e.getAttribute('alt') === null).map((e) => e.outerHTML)"
    )
    assert browser.ask(nameless) == []


def test_before_and_after_have_a_list_of_their_own(browser: Browser, gallery: Path) -> None:
    open_page(browser, gallery)
    browser.wait(SEEN)
    browser.click("#sets button[data-set='answers']")
    browser.wait(f"{SETTLED} && document.getElementById('status').textContent.startsWith('60 of 60')")
    value = (
        "[...document.querySelectorAll('#fact-change option')].find((o) => o.textContent.startsWith('improved')).value"
    )
    set_value(browser, "#fact-change", browser.ask(value))
    browser.wait("document.getElementById('status').textContent.startsWith('30 of')")
    browser.wait("document.querySelector('#detail .truth') !== null")


def test_a_gallery_without_its_folder_says_so(browser: Browser, gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "gallery.html").write_text(gallery.read_text())
    open_page(browser, tmp_path / "gallery.html")
    browser.wait("!document.getElementById('lost').hidden")


def test_hostile_words_run_nothing_in_any_page(browser: Browser, tmp_path: Path, injected: Injected) -> None:
    for number, beta in enumerate((0.1, 0.3)):
        run = write_run(
            tmp_path / "many" / str(number), {"loss.beta": beta, "model.name": EVIL}, 3 + number, typed=("loss.beta=1",)
        )
        for path in run.glob("stages/align/eval_*.json"):
            path.write_text(path.read_text().replace("a ghost", json.dumps(EVIL)[1:-1]))
    image = next(iter(make_samples())).image
    pair = PreferencePair(EVIL, EVIL, image, EVIL, Response(EVIL), (Response(f"{EVIL} no"),), EVIL)
    PairSet(tmp_path / "pairs").write([pair])
    (run / "stages" / "align" / "pairs.json").write_text(json.dumps({"pair_set": str(tmp_path / "pairs")}))
    pages = [compare_runs([tmp_path / "many"], tmp_path), write_gallery(run, tmp_path), write_report(run, pairs=[pair])]
    for page in pages:
        open_page(browser, page)
        browser.wait("document.readyState === 'complete'")
        if page.name == "gallery.html":
            browser.wait(SEEN)
        text = browser.ask("document.body.textContent")
        assert "onerror=" in text and browser.ask("globalThis.ran === undefined && document.title !== 'ran'"), page.name
        assert browser.ask("document.querySelectorAll('img[src=x], svg[onload]').length") == 0, page.name
        assert browser.said == [], page.name
    injected(
        "page with scripts in model text, file names and configuration, in Chromium",
        used=len(pages),
        says="shown as text",
    )


def make_samples():  # type: ignore[no-untyped-def]
    from datamodules.shapes.source import ShapesSource

    return ShapesSource("pairs_habit_free", 1)


def test_markup_that_slipped_through_would_stay_dead(browser: Browser, comparison: Path, gallery: Path) -> None:
    for page in (comparison, gallery):
        open_page(browser, page)
        browser.ask(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(EVIL)})")
        browser.ask("new Promise((done) => setTimeout(done, 100))")
        assert browser.ask("globalThis.ran === undefined") and any(
            "Content Security Policy" in said for said in browser.said
        )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground_in_light_and_dark(dark: bool, comparison: Path, gallery: Path) -> None:
    """Contrast of body text, soft text and marks: at least 4.5 to 1, as WCAG 2.1 asks."""
    colours = """(() => {
      const style = getComputedStyle(document.documentElement);
      const of = (name) => { const hex = style.getPropertyValue(name).trim();
        return hex.length === 4 ? '#' + [...hex.slice(1)].map((c) => c + c).join('') : hex; };
      const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16) / 255;
      const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      const light = (hex) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(part(hex, i)), 0);
      const ratio = (a, b) => { const [x, y] = [light(of(a)), light(of(b))].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05); };
      const grounds = {'--ink': ['--paper', '--card'], '--soft': ['--paper', '--card'], '--mark-ink': ['--mark'],
        '--good': ['--card'], '--bad': ['--card']};
      return Object.entries(grounds).flatMap(([a, all]) => all.map((b) => [a, b, ratio(a, b)]));
    })()"""
    with Browser(1280, 900, dark=dark) as own:
        for page in (comparison, gallery):
            own.open(page.as_uri())
            weak = [pair for pair in own.ask(colours) if pair[2] < 4.5]
            assert not weak, (page.name, weak)
            if PICTURES:
                own.ask("new Promise((done) => setTimeout(done, 300))")
                own.picture(Path(PICTURES) / f"{page.stem}_{'dark' if dark else 'light'}.png")


@pytest.mark.slow
def test_twenty_thousand_pairs_with_pictures_stay_quick_and_small(browser: Browser, tmp_path: Path) -> None:
    from benchmarks.gallery import make, use

    run = make_run(tmp_path / "run", 20_000, 2_000)
    made = make(run, thumbnail=48)
    assert made["peak memory, MB"] < 1024, made  # most of it is torch and torchvision, which draw the views
    assert made["files"] > 40_000  # a clean and a corrupted picture of each pair
    used = use(run / "gallery.html")
    assert used["rows in the page, most"] <= 20
    assert used["open, s"] < 10 and used["filter, s"] < 5, (
        used
    )  # far above what is measured: only a broken list takes as long
