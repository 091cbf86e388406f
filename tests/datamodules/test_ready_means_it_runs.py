"""What `task=check_data` calls ready, a run builds, scores and trains on; what it does not, a run refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.inspection import inspect
from datamodules.preference import NoPairs, PreferenceDataModule
from parallax.models.policy import Policy
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.ground_truth import Given
from parallax.preference.selector import BestAgainstRest
from parallax.records.skipped import TooManySkipped
from parallax.reports.data_report import complaints
from tests import typed

ROWS = 14
ASSETS = Path(__file__).parents[2] / "assets" / "tiny_llava"
Row = dict[str, Any]


def row(number: int, **more: Any) -> Row:
    return {
        "image": "a.png", "question": "What is this?", "chosen": f"A red square {number}.", "rejected": "A ship.", **more
    }  # fmt: skip


def swift(number: int, **more: Any) -> Row:
    talk = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": f"A square {number}."}]
    return {"messages": talk, "rejected_response": "A ship.", "images": ["a.png"], **more}


TWO = {"images": ["a.png", "b.png"], "image": None}
FEW: dict[str, Row] = {  # two faulty rows of many, which a run sets aside or drops
    "no question": {"question": None}, "no rejected": {"rejected": []}, "equal": {"chosen": "A ship."},
    "empty": {"rejected": " "},
    "missing image": {"image": "gone.png"}, "address": {"image": "https://x.org/a.png"}, "text only": {"image": None},
    "broken base64": {"image": "data:image/png;base64,AAAA"}, "image in answer": {"rejected": "See <image>."},
    "too long": {"question": "why " * 3000},
    "two marks": {"question": "<image><image>?"}, "two images": TWO, "control tokens": {"question": "</s> what?"},
    "video": {"video": "a.mp4"},
}  # fmt: skip
ALL: dict[str, tuple[bool, Callable[[int], Row]]] = {  # every row so, and whether a run works
    "as it should be": (True, row),
    "data URI": (True, lambda n: row(n, image="data:image/png;base64," + base64.b64encode(PNG).decode())),
    "several images": (True, lambda n: row(n, **TWO)),
    "several negatives": (True, lambda n: row(n, rejected=["A ship.", "A cat."])),
    "missing images": (False, lambda n: row(n, image=f"{n}.png")),
    "equal answers": (False, lambda n: row(n, chosen="A ship.")),
    "text only": (False, lambda n: row(n, image=None)),
    "too long": (False, lambda n: row(n, question="why " * 3000)),
    "other images on the rejected side": (False, lambda n: swift(n, rejected_images=["b.png"])),
    "no prompt": (False, lambda n: row(n, question=None)),
}
PNG = b""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    global PNG
    where = tmp_path_factory.mktemp("ready")
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), colour).save(where / f"{name}.png")
    PNG = (where / "a.png").read_bytes()
    return where


@pytest.fixture(scope="module")
def policy() -> Policy:
    return typed.load_policy({"path": str(ASSETS)}, {"r": 4, "enabled": True}, seed=0)


def both(rows: list[Row], folder: Path, policy: Policy, cache: Path) -> tuple[bool, bool]:
    """Whether the look at the data finds no fault, and whether pairs are built, scored by the reference and trained on."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))

    def source() -> PreferenceFileSource:
        return PreferenceFileSource(folder / "rows.jsonl", folder)

    found = inspect(source(), encoder=lambda: policy.encoder, selector=BestAgainstRest())
    module = PreferenceDataModule(
        source(), Given(), ByConstruction(), BestAgainstRest(), cache_dir=cache, show_progress=False,
        trainer=typed.trainer(batch_size=4, micro_batch_size=2, num_workers=0),
    )  # fmt: skip
    ready = not complaints(found, module.settings.max_skipped_share)
    try:
        module.build_pairs(policy)
    except (NoPairs, TooManySkipped):
        return ready, False
    module.fill_reference(policy)
    step = next(iter(module.epoch_loader()))
    for micro_batch in step.micro_batches:
        total = policy.score(micro_batch.scoring.to(policy.device)).total
        assert torch.isfinite(total).all()
        total.sum().backward()  # type: ignore[no-untyped-call]
    return ready, True


@pytest.mark.parametrize("kind", FEW)
def test_two_faulty_rows_of_many_stop_nothing(folder: Path, tmp_path: Path, policy: Policy, kind: str) -> None:
    rows = [row(number, **(FEW[kind] if number in (0, 7) else {})) for number in range(ROWS)]
    assert both(rows, folder, policy, tmp_path) == (True, True)


@pytest.mark.parametrize("kind", ALL)
def test_ready_is_said_of_what_runs(folder: Path, tmp_path: Path, policy: Policy, kind: str) -> None:
    runs, make = ALL[kind]
    assert both([make(number) for number in range(ROWS)], folder, policy, tmp_path) == (runs, runs)
