"""Sets of the hub by name: read, read again from the cache, and said to be away within seconds; sets and adapters go up."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from datamodules.formats.preference_file import PreferenceFileSource
from parallax.records import BadImage
from tests.fake_hub import FakeHub, fake_hub

ROOT = Path(__file__).parents[2]
READ = """
import json, sys
from datamodules.formats.preference_file import PreferenceFileSource

for path, split in json.loads(sys.argv[1]):
    try:
        pairs = PreferenceFileSource(path, split=split).pairs
        print(json.dumps([len(pairs), pairs[0].prompt, pairs[0].image.load().size]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def rows(count: int) -> bytes:
    picture, file = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(picture, "PNG")
    made = [{"image": {"bytes": picture.getvalue(), "path": f"{n}.png"}, "question": "What is this?", "chosen": f"A temple {n}.",
             "rejected": "A ship.", "idx": str(n)} for n in range(count)]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(made), file)
    return file.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as made:
        made.files["dataset", "openbmb/RLAIF-V-Dataset"] = {
            "README.md": b"# A set\n",
            "RLAIF-V-Dataset_000.parquet": rows(20),
        }
        made.files["dataset", "a/splits"] = {
            "data/train-00000-of-00001.parquet": rows(3),
            "data/test-00000-of-00001.parquet": rows(2),
        }
        for name, value in {
            "HF_ENDPOINT": made.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_x",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
        }.items():
            monkeypatch.setenv(name, value)
        yield made


def read(*sets: tuple[str, str], **environment: str) -> list[Any]:
    """What a process of its own finds of each set: pairs, the first question, the size of its picture; or why nothing."""
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(sets)], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_set_is_read_by_its_name_and_again_without_the_hub(hub: FakeHub) -> None:
    mine = ("openbmb/RLAIF-V-Dataset", "train")
    found, test, odd, gone = read(mine, ("a/splits", "test"), ("a/splits", "dev"), ("no/such", "train"))
    assert found == [20, "What is this?", [40, 30]] and test[0] == 2
    assert "Unknown split" in odd and "['train', 'test']" in odd
    assert "no/such cannot be opened as a data set" in gone and "doesn't exist on the Hub" in gone
    began = time.monotonic()
    cached, gone = read(mine, ("no/such", "train"), HF_ENDPOINT="http://127.0.0.1:9")
    assert cached == found and time.monotonic() - began < 25
    assert gone.endswith(
        "it is no path here nor in the cache of `datasets`, and the hub at 127.0.0.1 does not answer (Connection refused))"
    )


@pytest.mark.slow
def test_offline_the_cache_is_read_and_the_hub_is_not_asked(hub: FakeHub) -> None:
    mine = ("openbmb/RLAIF-V-Dataset", "train")
    (found,) = read(mine)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        hub.asked.clear()
        cached, gone = read(mine, ("no/such", "train"), **{name: "1"})
        assert cached == found and "this machine is set to be offline" in gone
        assert not [line for line in hub.asked if "openbmb" in line or "no/such" in line]


def test_a_snapshot_in_the_hubs_cache_is_a_folder_whose_files_are_links(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "datasets--a--b" / "snapshots" / "abc", tmp_path / "datasets--a--b" / "blobs"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    Image.new("RGB", (40, 30), "teal").save(blobs / "1", "PNG")
    row = {"image": "images/1.png", "question": "What is this?", "chosen": "A temple.", "rejected": "A ship."}
    (blobs / "2").write_text(json.dumps(row))
    (tmp_path / "secret.png").write_bytes((blobs / "1").read_bytes())
    (snapshot / "images" / "1.png").symlink_to("../../../blobs/1")
    (snapshot / "images" / "2.png").symlink_to(tmp_path / "secret.png")
    (snapshot / "train.jsonl").symlink_to("../../blobs/2")
    (pair,) = PreferenceFileSource(snapshot).pairs
    assert pair.image.load().size == (40, 30)
    (blobs / "2").write_text(json.dumps(row | {"image": "images/2.png"}))
    (pair,) = PreferenceFileSource(snapshot).pairs
    with pytest.raises(BadImage, match="leaves the image root"):
        pair.image.load()


@pytest.mark.slow
def test_a_run_on_a_set_of_the_hub_puts_its_adapter_and_its_pairs_up(hub: FakeHub, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        more = [
            "method=dpo_file",
            "data.path=openbmb/RLAIF-V-Dataset",
            "evaluation=none",
            "logger=none",
            f"paths.cache_dir={tmp_path}/cache",
        ]
        done = subprocess.run([sys.executable, "run.py", *more, *words], cwd=ROOT, env={**os.environ, "PARALLAX_ROOT": str(ROOT)},
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    assert "ready" in run("task=check_data", f"paths.output_dir={tmp_path}/check")
    run("trainer.max_steps=2", "export.push_to_hub=me/adapter", f"paths.output_dir={tmp_path}/run")
    adapter = hub.files["model", "me/adapter"]
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= adapter.keys() and hub.private[
        "model", "me/adapter"
    ]
    assert b"openbmb/RLAIF-V-Dataset" in adapter["README.md"]
    run("task=export_pairs", "task.format=trl", "task.license=mit", "task.push_to_hub=me/pairs", f"task.output={tmp_path}/pairs",
        f"paths.output_dir={tmp_path}/export")  # fmt: skip
    assert (
        set(hub.files["dataset", "me/pairs"]) == {"pairs.parquet", "README.md"} and hub.private["dataset", "me/pairs"]
    )
    card = hub.files["dataset", "me/pairs"]["README.md"].decode()
    for told in (
        "license: mit",
        "| method | dpo_file |",
        "openbmb/RLAIF-V-Dataset",
        "| model |",
        "| pairs | 20 |",
        "| licence | mit |",
    ):
        assert told in card, told
    assert read(("me/pairs", "train")) == [[20, "What is this?", [40, 30]]]
