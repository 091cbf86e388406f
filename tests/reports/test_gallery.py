"""The gallery: every pair, every dropped sample with its reason and answers, every answer before and after, all escaped."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gallery import make_run
from datamodules.shapes.source import ShapesSource
from parallax.records import Candidate, Decoding, Dropped, GenerationSpec, PreferencePair, Response, ViewSpec
from parallax.records.candidate_store import CandidateStore
from parallax.records.pair_store import PairSet
from parallax.reports import gallery
from parallax.reports.gallery import FILES, write_gallery
from parallax.settings.errors import ConfigError
from parallax.tasks import gallery as task
from tests.reports.run_folders import evaluation

EVIL = "</script><img src=x onerror=alert(1)>\u2028'\"&"


def read(folder: Path, name: str) -> Any:
    """What a data file hands to the page: the last argument of its one call."""
    text = (folder / FILES / name).read_text("utf-8")
    call = re.fullmatch(r"parallax(?:Index|Chunk)\((?:\"\w+\",\d+,)?(.*)\);\n", text, re.S)
    assert call is not None, text[:80]
    return json.loads(call[1])


def columns(folder: Path, name: str) -> dict[str, list[Any]]:
    """Facts of one set, words instead of their numbers."""
    (found,) = [one for one in read(folder, "index.js")["sets"] if one["name"] == name]
    return {
        column["name"]: [column["words"][value] if column["words"] else value for value in column["values"]]
        for column in found["columns"]
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three pairs and two dropped samples of drawn scenes, and an evaluation of 60 questions before and after."""
    folder = make_run(tmp_path / "run", 3, 2)
    evaluation(20).save(folder / "stages" / "align" / "eval_before.json")
    evaluation(5).save(folder / "stages" / "align" / "eval_after.json")
    return folder


def test_every_pair_and_every_dropped_sample_is_there(run: Path, tmp_path: Path) -> None:
    page = write_gallery(run, tmp_path / "out")
    assert page == tmp_path / "out" / "gallery.html"
    facts, items = columns(tmp_path / "out", "pairs"), read(tmp_path / "out", "pairs-0000.js")
    assert facts["outcome"] == ["kept"] * 3 + ["dropped: truncated", "dropped: equal"] and len(items) == 5
    assert facts["source"][:3] == ["coco", "drawings", "photos"] and facts["margin"] == [1.0, 1.1, 1.2, None, None]
    kept, gone = items[0], items[3]
    assert kept["rejected"][0]["view"] == "diffusion noise steps 300" and kept["rejected"][0]["score"] == 0
    assert [text for text, differs in kept["rejected"][0]["spans"] if differs] == ["a ghost0."]
    assert gone["dropped"] == "truncated" and gone["prompt"] and gone["chosen"] is None


def test_pictures_lie_beside_the_page_each_once_and_small(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    write_gallery(run, tmp_path, thumbnail=40)
    items, images = read(tmp_path, "pairs-0000.js"), tmp_path / FILES / "images"
    assert all(item["image"] for item in items) and [len(item["corrupted"]) for item in items] == [1, 1, 1, 0, 0]
    named = {name for item in items for name in (item["image"], *item["corrupted"])}
    named |= {item["image"] for item in read(tmp_path, "answers-0000.js") if item["image"]}
    assert {str(path.relative_to(images)) for path in images.rglob("*.*")} == named
    with Image.open(images / items[0]["image"]) as clean, Image.open(images / items[0]["corrupted"][0]) as corrupted:
        assert (
            clean.size == corrupted.size == (40, 40)
            and clean.convert("RGB").tobytes() != corrupted.convert("RGB").tobytes()
        )
    assert "src=" not in (tmp_path / "gallery.html").read_text().split("<script")[0]  # the page itself holds none


def test_answers_say_how_they_changed(run: Path, tmp_path: Path) -> None:
    write_gallery(run, tmp_path)
    facts, items = columns(tmp_path, "answers"), read(tmp_path, "answers-0000.js")
    chair = [change for change, suite in zip(facts["change"], facts["suite"], strict=True) if suite == "chair"]
    assert chair.count("improved") == 15 and chair.count("same answer") == 15
    assert items[10]["before"]["score"] == "chair_i 1 of 2" or items[10]["before"]["score"] == "wrong"


def test_thousands_come_in_chunks_and_a_limit_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "CHUNK", 4)
    run = make_run(tmp_path / "run", 9, 1)
    told: list[int] = []
    write_gallery(run, tmp_path / "out", thumbnail=0, progress=told.append)
    sizes = [len(read(tmp_path / "out", f"pairs-{number:04d}.js")) for number in range(3)]
    assert sizes == [4, 4, 2] == told and read(tmp_path / "out", "index.js")["chunk"] == 4
    assert not (tmp_path / "out" / FILES / "images").exists()
    write_gallery(run, tmp_path / "out", thumbnail=0, limit=4)  # and the old chunks are gone
    assert [path.name for path in sorted((tmp_path / "out" / FILES).iterdir())] == ["index.js", "pairs-0000.js"]


def test_dropped_samples_show_the_answers_the_cache_still_has(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, 0)
    samples = list(ShapesSource("pairs_habit_free", 2))
    clean, noisy = ViewSpec("identity", {}, 0), ViewSpec("diffusion", {"noise_steps": 500}, 3)
    spec = GenerationSpec(
        policy="p", precision="f", processor="q", template="t", image="i", prompt="What?", view=clean,
        decoding=Decoding(16), generator="g",
    )  # fmt: skip

    def said(sample: str, role: str, view: ViewSpec, text: str, policy: str = "p") -> Candidate:
        own = replace(spec, policy=policy, view=view, image=sample)
        return Candidate(own.key(), sample, role, 0, (1,), text, True, own)

    kept, gone = (sample.id for sample in samples)
    store = CandidateStore(run / "cache" / "candidates")
    same = said(gone, "chosen", clean, "a red dot"), said(gone, "rejected", replace(noisy, seed=9), "a red dot")
    store.add([*same, said(gone, "chosen", clean, "of another model", policy="other")])
    store.add([said(gone, "rejected", ViewSpec("diffusion", {"noise_steps": 900}, 1), "of another noise")])

    def response(role: str, view: ViewSpec, text: str) -> Response:
        made = {**{name: getattr(spec, name) for name in ("policy", "precision", "processor", "template", "generator")},
                "role": role, "view": {"name": view.name, "params": dict(view.params), "seed": view.seed},
                "decoding": {"max_new_tokens": spec.decoding.max_new_tokens, "seed": 4}}  # fmt: skip
        return Response(text, provenance=made)

    pair = PreferencePair(
        kept, "s", samples[0].image, "What?", response("chosen", clean, "yes"), (response("rejected", noisy, "no"),)
    )
    (run / "pairs" / "manifest.json").unlink()
    PairSet(run / "again").write([pair], [Dropped(gone, "s", "equal")])
    (run / "stages" / "align" / "pairs.json").write_text(json.dumps({"pair_set": str(run / "again")}))
    config = (run / "config.yaml").read_text().replace("size: 0", "size: 2")
    (run / "config.yaml").write_text(config)
    write_gallery(run, tmp_path / "out")
    shown = read(tmp_path / "out", "pairs-0000.js")[1]
    assert shown["dropped"] == "equal" and shown["chosen"] == [["a red dot", 0]]
    assert [(each["spans"], each["view"]) for each in shown["rejected"]] == [
        ([["a red dot", 0]], "diffusion noise steps 500")
    ]
    assert len(shown["corrupted"]) == 1


def test_a_pair_whose_image_is_gone_is_still_shown(run: Path, tmp_path: Path) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("size: 5", "size: 1"))
    write_gallery(run, tmp_path)
    items = read(tmp_path, "pairs-0000.js")
    assert [bool(item["image"]) for item in items] == [True, False, False, False, False]
    assert items[1]["chosen"] and items[1]["image_name"] == "shapes:pairs_habit_free:1"


def test_hostile_words_stay_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    image = next(iter(ShapesSource("pairs_habit_free", 1))).image
    pair = PreferencePair(EVIL, EVIL, image, EVIL, Response(f"yes {EVIL}"), (Response(f"no {EVIL}"),), EVIL)
    PairSet(run / "evil").write([pair], [Dropped(EVIL, EVIL, EVIL, EVIL)])
    (run / "stages" / "align" / "pairs.json").write_text(json.dumps({"pair_set": str(run / "evil")}))
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("name: seva", f"name: {json.dumps(EVIL)}")
    )
    html = write_gallery(run, tmp_path / "out").read_text()
    assert "<img src=x" not in html and html.count("</script>") == 2 and "script-src 'sha256-" in html
    for name in ("index.js", "pairs-0000.js"):
        text = (tmp_path / "out" / FILES / name).read_text()
        assert "<" not in text and "\u2028" not in text
    assert read(tmp_path / "out", "pairs-0000.js")[0]["prompt"] == EVIL


def test_a_gallery_that_cannot_be_made_leaves_the_old_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gallery(run, tmp_path)
    before = sorted(path.name for path in (tmp_path / FILES).rglob("*"))

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(gallery, "_write_chunk", fails)
    with pytest.raises(OSError, match="disk full"):
        write_gallery(run, tmp_path)
    assert sorted(path.name for path in (tmp_path / FILES).rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_task_puts_it_beside_the_run_and_refuses_what_it_cannot_show(
    compose_config, run: Path, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    words = ("task=gallery", f"paths.output_dir={tmp_path / 'own'}")
    task.run(compose_config(*words, f"run={run}", "task.thumbnail=0"))
    assert f"gallery in {run / 'gallery.html'}" in capsys.readouterr().out
    assert (run / FILES / "pairs-0000.js").is_file()
    bare = tmp_path / "many" / "0"
    for folder in (bare, tmp_path / "many" / "1"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="holds 2 runs; name one"):
        task.run(compose_config(*words, f"run={tmp_path / 'many'}"))
    with pytest.raises(ConfigError, match="neither pairs nor answers"):
        task.run(compose_config(*words, f"run={bare}"))
