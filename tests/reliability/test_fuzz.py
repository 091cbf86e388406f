"""Readers, parsers, the check of configurations and the pair store, given whatever there can be: nothing falls over and nothing
is lost without a reason. A few hundred cases in the quick tests, more than a hundred thousand in the slow ones."""

from __future__ import annotations

import bz2
import copy
import csv
import functools
import gzip
import io
import json
import lzma
import string
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pyarrow import parquet

from datamodules.formats import portions
from datamodules.formats.columns import ColumnsSource
from datamodules.formats.json_rows import BrokenFile, json_rows
from datamodules.formats.listed import Unusable
from datamodules.formats.llava_json import LlavaJsonSource
from datamodules.formats.preference import FORMATS, Choices
from datamodules.formats.preference_file import PreferenceFileSource
from parallax.evaluation.accuracy import same_text
from parallax.evaluation.pope import read_answer
from parallax.preference.verdict import read_verdict
from parallax.records import BadImage, Dropped, PreferencePair, Response
from parallax.records.images import FileImage, upright_rgb
from parallax.records.pair_store import PairSet
from parallax.records.sample import Sample
from parallax.settings.check import find_problems
from parallax.settings.command_line import prepare
from parallax.settings.errors import ConfigError
from parallax.tasks.error_messages import sentence_of
from tests.faults import Injected
from tests.models.checkpoints import write_checkpoint
from tests.typed import load_policy

CONF = Path(__file__).resolve().parents[2] / "conf"
TEXT = st.text(max_size=30) | st.sampled_from(
    ["<image>\nWhat?", "a <image> b", "<image><image>", "</s>", "", " ", "\u202eabc", "\ud800"]
)
WORDS = ["[[1]]", "[[2]]", "1", "2", "answer", "is", "better", "not", "no", "yes", "tie", "both", ".", ",", "\n", "The"]
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
SPEAKER = st.sampled_from(["human", "gpt", "system", "nobody"]) | JSON
PATH = st.sampled_from(["a.png", "../a.png", "/etc/passwd", "http://x/a.png", "a\x00.png", "missing.png"]) | JSON
LLAVA = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["1", "2"]) | JSON,
        "image": PATH,
        "conversations": st.lists(st.fixed_dictionaries({"from": SPEAKER, "value": TEXT | JSON}) | JSON, max_size=4)
        | JSON,
    },
)
WILD = st.fixed_dictionaries(
    {},
    optional={
        name: PATH if name in ("image", "images", "image_id") else TEXT | JSON
        for name in ("id", "image", "images", "image_id", "question", "prompt", "chosen", "rejected", "reject", "conversations")
    },
)  # fmt: skip


def sound_row(form: str, asked: str, better: str, worse: str) -> dict[str, Any]:
    """A row as files of this format have it."""

    def said(answer: str, who: str = "role", what: str = "content") -> list[dict[str, str]]:
        return [{who: "user", what: asked}, {who: "assistant", what: answer}]

    def turns(answer: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]

    rows: dict[str, dict[str, Any]] = {
        "seva": {"question": asked, "chosen": better, "reject": worse, "image_id": "a.png"},
        "stic": {"image": "a.png", "chosen": said(better), "rejected": said(worse)},
        "sima": {"id": "1", "image": "a.png", "conversations": turns(better), "rejected_conversations": turns(worse)},
        "ms_swift": {"messages": said(better), "rejected_response": worse, "images": ["a.png"]},
        "llama_factory": {
            "conversations": turns(better)[:1], "chosen": turns(better)[1], "rejected": turns(worse)[1], "images": ["a.png"],
        },
        "trl": {"prompt": asked, "chosen": better, "rejected": [worse, better], "image": "a.png"},
        "rlaif_v": {"question": asked, "chosen": better, "rejected": worse, "image": "a.png", "idx": "7"},
        "rlhf_v": {"text": json.dumps({"question": asked, "chosen": better, "rejected": worse}), "image": "a.png"},
        "alpaca": {"instruction": asked, "input": "", "chosen": better, "rejected": worse, "images": ["a.png"]},
        "vlfeedback": {
            "prompt": asked, "img_path": "a.png",
            "completions": [{"response": better, "score": 2.0}, {"response": worse, "score": 1}],
        },
        "llava_rlhf": {
            "image": "a.png", "conversations": turns(better), "output_1": turns(better)[1], "output_2": turns(worse)[1],
            "preference": 1,
        },
    }  # fmt: skip
    return rows[form]


SOUND = (
    "seva",
    "stic",
    "sima",
    "ms_swift",
    "llama_factory",
    "trl",
    "rlaif_v",
    "rlhf_v",
    "alpaca",
    "vlfeedback",
    "llava_rlhf",
)


@st.composite
def pair_row(draw: st.DrawFn, form: str) -> Any:
    """A sound row in which up to two values, however deep, are something else or gone."""
    row: Any = sound_row(form, draw(TEXT), draw(TEXT), draw(TEXT))
    for _ in range(draw(st.integers(0, 2))):
        node, key = row, draw(st.sampled_from(sorted(row))) if row else None
        while isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if draw(st.booleans()):
            node[key] = draw(PATH | TEXT | JSON)
        else:
            del node[key]
        if not row:
            break
    return row


def one_format(rows: int) -> st.SearchStrategy[tuple[str, list[Any]]]:
    """A format and so many rows, most of them nearly of that format."""

    def of(form: str) -> st.SearchStrategy[tuple[str, list[Any]]]:
        row = pair_row(form) | pair_row(form) | pair_row(form) | WILD
        return st.tuples(st.just(form), st.lists(row | JSON if rows > 1 else row, min_size=1, max_size=rows))

    return st.sampled_from(SOUND).flatmap(of)


def searched(cases: int, *strategies: Any) -> Callable[[Callable[..., str]], Counter[str]]:
    """Run a check on so many cases, now. It returns what came of each (`told` or `used`); they are counted."""

    def run(check: Callable[..., str]) -> Counter[str]:
        tally: Counter[str] = Counter()

        @functools.wraps(check)
        def counted(*positional: Any, **named: Any) -> None:
            tally[check(*positional, **named)] += 1

        quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
        rules = settings(
            max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=quiet
        )
        rules(given(*strategies)(counted))()
        assert tally.total() >= 0.9 * cases, f"only {tally.total()} cases were found"
        return tally

    return run


def sizes(quick: int, slow: int) -> Any:
    """The number of cases, in the quick tests and in the slow ones."""
    return pytest.mark.parametrize("cases", [quick, pytest.param(slow, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("images")
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


@contextmanager
def written(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


@sizes(150, 10_000)
def test_any_bytes_as_a_json_file(cases: int, injected: Injected) -> None:
    @searched(cases, st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()), st.integers(0, 200))
    def check(data: bytes, cut: int) -> str:
        with written(data[: len(data) - cut] if cut < len(data) else data, "x.json") as path:
            try:
                rows = list(json_rows(path))
            except BrokenFile as error:
                assert str(path) in str(error)
                return "told"
            assert [row.number for row in rows] == list(range(1, len(rows) + 1))
            return "told" if any(row.error for row in rows) else "used"

    injected("fuzz: bytes as a JSON file", **check, says="rows, rows with an error, or a refusal that names the file")


def accounted(source: Any, rows: int) -> str:
    """Every row is a sample, set aside with a reason, or counted as not asked for. `told` when any was set aside."""
    used = list(source)
    assert source.rows == rows
    assert len(used) + len(source.set_aside) + sum(source.left_out.values()) == rows
    for item in source.set_aside:
        assert item.reason and item.why
    for sample in used:
        assert isinstance(sample, Sample)
        sample.id.encode(), sample.question.encode()
    assert len({sample.id for sample in used}) == len(used)
    return "told" if source.set_aside else "used"


@sizes(150, 6_000)
def test_any_rows_of_llava_json(cases: int, root: Path, injected: Injected) -> None:
    @searched(cases, st.lists(LLAVA | JSON, max_size=5))
    def check(rows: list[Any]) -> str:
        with written(json.dumps(rows).encode(), "x.json") as path:
            return accounted(LlavaJsonSource(path, root), len(rows))

    injected("fuzz: rows of LLaVA's JSON", **check, says="used or set aside with a reason; counts in = counts out")


@sizes(150, 6_000)
def test_any_rows_of_a_preference_file(cases: int, root: Path, injected: Injected) -> None:
    @searched(cases, one_format(rows=4))
    def check(drawn: tuple[str, list[Any]]) -> str:
        form, rows = drawn
        with written(json.dumps(rows).encode(), "x.json") as path:
            return accounted(PreferenceFileSource(path, root, format=form), len(rows))

    injected("fuzz: rows of preference files", **check, says="used or set aside with a reason; counts in = counts out")


def stored(rows: list[dict[str, Any]], kind: str) -> bytes:
    """Rows of texts in a file of this kind; in archives a picture lies beside each row."""
    held = io.BytesIO()
    whole, _, packed = kind.partition(".")
    if packed:
        return PACKED[packed](stored(rows, whole))
    if whole in ("csv", "tsv"):
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS, delimiter="," if whole == "csv" else "\t")
        table.writeheader()
        table.writerows(rows)
        return text.getvalue().encode("utf-8", "surrogatepass")
    if whole == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), held, row_group_size=2)
    elif whole == "arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_file(held, table.schema) as writer:
            writer.write_table(table)
    elif whole == "zip":
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, row in enumerate(rows):
                archive.writestr(f"{number}.json", json.dumps(row))
    elif whole == "tar":
        with tarfile.open(fileobj=held, mode="w") as archive:
            for number, row in enumerate(rows):
                data = json.dumps(row).encode()
                info = tarfile.TarInfo(f"{number}.json")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return held.getvalue()


COLUMNS = ("question", "chosen", "rejected", "image")
PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
KINDS = (
    "jsonl", "csv", "tsv", "parquet", "arrow", "zip", "tar", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "csv.gz", "tar.gz",
    "parquet.xz",
)  # fmt: skip


@sizes(120, 12_000)
def test_damaged_files_of_every_kind(
    cases: int, root: Path, injected: Injected, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = st.text(st.characters(codec="utf-8"), max_size=12)
    row = st.fixed_dictionaries({name: st.just("a.png") if name == "image" else text for name in COLUMNS})
    damage = st.none() | st.tuples(st.integers(0, 5_000), st.binary(min_size=0, max_size=6))
    monkeypatch.setattr(portions, "LARGE", 2)

    @searched(cases, st.sampled_from(KINDS), st.lists(row, min_size=1, max_size=6), damage, st.booleans())
    def check(kind: str, rows: list[dict[str, Any]], damage: tuple[int, bytes] | None, pairs: bool) -> str:
        data = stored(rows, kind)
        if damage is not None:
            where = damage[0] % len(data)
            data = data[:where] + damage[1] + (data[where + len(damage[1]) :] if damage[1] else b"")
        with written(data, f"x.{kind}") as path:
            try:
                source: Any = (
                    PreferenceFileSource(path, root, format="seva", portion=2 if len(rows) > 3 else None)
                    if pairs
                    else ColumnsSource(str(path), {"image": "image", "question": "question", "answer": "chosen"}, root)
                )
                told = accounted(source, len(source.table))
                if pairs and (parts := source.portions(1)) is not None:
                    seen = []
                    for number in range(parts.count):
                        source.take(parts.places(number))
                        seen += [pair.chosen.provenance["row"] for pair in source.pairs]
                        assert source.rows == len(parts.places(number))
                    assert len(set(seen)) == len(seen)
            except ValueError as error:
                assert f"x.{kind.partition('.')[0]}" in str(error) or "data." in str(error), error
                return "told"
            return told

    injected(
        "fuzz: damaged files of every kind", **check, says="rows, rows with a reason, or a refusal that names the file"
    )


VERDICT = st.booleans() | JSON
KTO = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["What?", "", "Where?"]), "completion": st.sampled_from(["A", "B", "", "C"])},
    optional={
        "label": VERDICT,
        "kto_tag": VERDICT,
        "image": PATH,
        "question": JSON,
        "messages": JSON,
        "rejected": JSON,
    },
)


@sizes(80, 4_000)
def test_any_rows_of_answers_with_a_verdict(cases: int, root: Path, injected: Injected) -> None:
    others = JSON.filter(lambda value: not isinstance(value, list))  # a list in a list is read as more rows

    @searched(cases, st.lists(KTO | KTO | others, min_size=1, max_size=6))
    def check(rows: list[Any]) -> str:
        with written(json.dumps(rows).encode(), "x.json") as path:
            source = PreferenceFileSource(path, root, format="kto")
            pairs = list(source.pairs)
            assert source.rows == len(rows) and len({pair.sample_id for pair in pairs}) == len(pairs)
            assert all(item.reason and item.why for item in source.set_aside)
            assert pairs or source.set_aside or source.left_out
            return "told" if source.set_aside else "used"

    injected("fuzz: rows of answers with a verdict (KTO)", **check, says="paired or set aside with a reason")


@sizes(200, 30_000)
def test_any_row_for_the_parsers(cases: int, injected: Injected) -> None:
    @searched(cases, one_format(rows=1))
    def check(drawn: tuple[str, list[Any]]) -> str:
        form, (row,) = drawn
        try:
            (parsed,) = FORMATS[form].read(row, Choices())
        except Unusable as unusable:
            assert unusable.reason and unusable.why
            return "told"
        assert parsed.messages[-1].text and parsed.rejected and isinstance(parsed.chosen, str)
        return "used"

    injected("fuzz: rows for the pair parsers", **check, says="a pair or a reason")


@sizes(300, 50_000)
def test_any_text_as_a_verdict_or_an_answer(cases: int, injected: Injected) -> None:
    words = st.lists(st.sampled_from(WORDS), max_size=12)

    @searched(cases, st.text(max_size=300) | words.map(" ".join))
    def check(text: str) -> str:
        verdict = read_verdict(text)
        assert verdict in ("first", "second", "tie", "unreadable")
        assert isinstance(read_answer(text).yes, bool)
        assert isinstance(same_text("", text, "yes"), bool)
        return "told" if verdict == "unreadable" else "used"

    injected(
        "fuzz: texts as verdicts and answers",
        **check,
        says="a verdict or `unreadable`, an answer or a counted parse failure",
    )


@sizes(150, 8_000)
def test_damaged_images(cases: int, injected: Injected) -> None:
    whole = []
    for form, options in (("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {})):
        held = io.BytesIO()
        Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(held, form, **options)
        whole.append(held.getvalue())

    @searched(cases, st.sampled_from(whole), st.integers(0, 10_000), st.binary(min_size=1, max_size=6), st.booleans())
    def check(data: bytes, where: int, new: bytes, cut: bool) -> str:
        place = where % len(data)
        damaged = data[:place] if cut else data[:place] + new + data[place + len(new) :]
        try:
            image = upright_rgb(io.BytesIO(damaged), "x")
        except BadImage as bad:
            assert "image 'x'" in str(bad)
            return "told"
        assert image.mode == "RGB" and image.width * image.height <= 150_000_000
        return "used"

    injected("fuzz: damaged image files", **check, says="an RGB image or a refusal with the reason")


ODD = st.sampled_from(
    [None, True, 0, -1, 2**40, 1.5, float("nan"), "", "x", "../../etc/passwd", [], [1], ["x"], {}, {"a": 1}, "\ud800"]
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model, as the hub gives it, with an adapter of it below: toys of a few hundred kilobytes."""
    folder = write_checkpoint("llava", tmp_path_factory.mktemp("snapshot") / "model")
    policy = load_policy({"path": str(folder), "feature_cache": "none"}, {"enabled": True, "r": 4})
    policy.save_adapter(folder / "adapter")
    return folder


def places_in(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all that stands in a JSON file; of a list only the first few."""
    for key in node if isinstance(node, dict) else range(min(len(node), 5)) if isinstance(node, list) else ():
        yield (*at, key)
        yield from places_in(node[key], (*at, key))


@sizes(25, 1_200)
def test_damaged_model_folders(cases: int, snapshot: Path, injected: Injected) -> None:
    """Configuration, tokenizer, processor, template, weights and adapter of a local snapshot, one of them damaged."""
    files = [file for file in sorted(snapshot.rglob("*")) if file.is_file() and file.suffix != ".md"]

    @searched(cases, st.sampled_from(files), st.integers(0, 10**6), st.binary(max_size=3), ODD, st.integers(0, 3))
    def check(file: Path, where: int, new: bytes, odd: Any, kind: int) -> str:
        whole = file.read_bytes()
        place = where % len(whole)
        damaged = whole[:place] + (new + whole[place + len(new) :] if new else b"")
        if file.suffix == ".json" and kind:
            content = node = json.loads(whole)
            *above, last = (found := list(places_in(content)))[where % len(found)]
            for key in above:
                node = node[key]
            node[last] = odd
            damaged = json.dumps(content).encode()
        adapter = file.parent if file.parent != snapshot else None
        try:
            file.write_bytes(damaged)
            load_policy({"path": str(snapshot), "feature_cache": "none"}, {"enabled": True, "r": 4}, adapter=adapter)
        except Exception as error:
            assert sentence_of(error), f"{file.name} was damaged: {error!r}"
            return "told"
        finally:
            file.write_bytes(whole)
        return "used"

    injected("fuzz: damaged model folders and adapters", **check, says="loaded, or refused in a sentence")


@sizes(60, 600)
def test_any_value_for_any_key(cases: int, compose_config: Callable[..., DictConfig], injected: Injected) -> None:
    plain: Any = OmegaConf.to_container(compose_config("logger=[wandb,tensorboard]"), resolve=False)
    places: list[tuple[str, ...]] = []

    def walk(node: Any, at: tuple[str, ...]) -> None:
        for key, value in node.items():
            places.append((*at, key))
            if isinstance(value, dict):
                walk(value, (*at, key))

    walk({key: value for key, value in plain.items() if key != "hydra"}, ())
    value = (
        st.sampled_from([0, 1, 0.5, 2, "auto", "none", True])
        | st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text("${}:.abc 1", max_size=8)
        | JSON
    )

    @searched(cases, st.lists(st.tuples(st.sampled_from(places), value), min_size=1, max_size=3))
    def check(changes: list[tuple[tuple[str, ...], Any]]) -> str:
        changed = copy.deepcopy(plain)
        for place, new in changes:
            node = changed
            for key in place[:-1]:
                node = node.get(key) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node[place[-1]] = new
        try:
            cfg = OmegaConf.create(changed)
        except Exception:  # Hydra would not have composed it
            return "told"
        problems = find_problems(cfg)
        assert all(sentence.strip() for sentence in problems.values())
        return "told" if problems else "used"

    injected("fuzz: values of configuration keys", **check, says="accepted, or refused in sentences")


@sizes(60, 500)
def test_any_words_on_the_command_line(cases: int, injected: Injected) -> None:
    word = st.text(string.ascii_letters + "=.,[]{}()'\"~+-@/${}:\\ 0123456789", max_size=20)
    near = st.tuples(
        st.sampled_from(["loss.beta", "method", "data.size", "aug", "seed", "stages.align.loss"]),
        word | st.sampled_from(["1", "0.5", "stic", "seva", "dpo", "diffusion", "flip", "[1,2]"]),
    ).map("=".join)

    @searched(cases, st.lists(word | near, min_size=1, max_size=2))
    def check(words: list[str]) -> str:
        if any(w.startswith("-") for w in words):  # options are argparse's own
            return "used"
        try:
            prepare(words, CONF)
        except ConfigError as error:
            assert error.problems and all(problem.strip() for problem in error.problems)
            return "told"
        return "used"

    injected("fuzz: words on the command line", **check, says="accepted, or refused in sentences")


@sizes(30, 1_500)
def test_any_pairs_come_back_from_the_store(cases: int, root: Path, injected: Injected) -> None:
    real = st.text(st.characters(codec="utf-8"), max_size=30)
    ids = st.none() | st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple)
    plain = st.dictionaries(real, st.none() | st.booleans() | st.integers(-(2**50), 2**50) | real, max_size=3)
    response = st.builds(Response, real, ids, plain, st.none() | st.floats(allow_nan=False))
    pair = st.builds(
        PreferencePair, real, real, st.just(FileImage(str(root), "a.png")), real, response,
        st.lists(response, min_size=1, max_size=3).map(tuple), real, plain,
    )  # fmt: skip
    dropped = st.builds(Dropped, real, real, real, real)

    @searched(cases, st.lists(pair, max_size=4), st.lists(dropped, max_size=4))
    def check(pairs: list[PreferencePair], gone: list[Dropped]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            store = PairSet(Path(folder, "set"))
            store.write(pairs, gone)
            assert store.load(lambda _, name: FileImage(str(root), name)) == pairs and store.dropped() == gone
        return "same"

    injected("fuzz: pairs for the pair store", **check, says="what was written comes back")
