"""Every example of a preference file in docs/data.md is read by its form and trains two steps; every key of its table exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.preference import PreferenceDataModule
from lightning_modules.objectives import DPO
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.given import Given
from parallax.preference.selector import BestAgainstRest
from parallax.settings.schema import rule_at
from tests import typed

ROOT = Path(__file__).parents[2]
PAGE = (
    (ROOT / "docs" / "data.md").read_text("utf-8").split("## `data=preference_file`")[1].split("## What is written")[0]
)
FILES = dict(re.findall(r"^```json file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
READ = [name for name in FILES if not name.endswith(("dataset_info.json", "temples.jsonl"))]
PAIRS = {"trl.jsonl": 2, "symmpo.jsonl": 2}
MORE: dict[str, dict[str, Any]] = {
    "mine.jsonl": {"columns": {"question": "about.q", "chosen": "good", "rejected": "bad", "image": "pic"}},
}
KEYS = re.findall(r"`((?:[a-z_]+\.)?[a-z_0-9.]+)(?:=\w+)?`", "".join(
    line.rsplit("|", 2)[1] for line in PAGE.split("### Your flag there")[1].splitlines() if line.startswith("| ")
))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    where = tmp_path_factory.mktemp("formats")
    for number, name in enumerate(("coco/train2017/7.jpg", "ocr_vqa/images/1.jpg")):
        (where / "images" / name).parent.mkdir(parents=True)
        photo.rotate(90 * number, expand=True).save(where / "images" / name)
    for name, text in FILES.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    return where


@pytest.mark.parametrize("name", READ)
def test_an_example_is_read_and_trains_two_steps(folder: Path, tmp_path: Path, policy: Any, name: str) -> None:
    source = PreferenceFileSource(folder / name, folder / "images", **MORE.get(name, {}))
    assert len(source) == PAIRS.get(name, 1) and not source.set_aside and not source.left_out
    assert {pair.chosen.text for pair in source.pairs} <= {"A temple.", "A book.", "The first."}
    module = PreferenceDataModule(
        source, Given(), ByConstruction(), BestAgainstRest(len(source.pairs[0].rejected)), cache_dir=tmp_path,
        trainer=typed.trainer(batch_size=4), reference_mode="live",
    )  # fmt: skip
    if source.pairs[0].compares_images:  # for losses that compare images; what they show is encoded as they do it
        pair = source.pairs[0]
        shown = policy.encoder.encode_conversation(pair.conversation.with_images(pair.rejected_images))
        assert not torch.equal(
            shown.vision["pixel_values"], policy.encoder.encode_conversation(pair.conversation).vision["pixel_values"]
        )
        return
    module.build_pairs(policy)
    learned = [value for _, value in policy.trainable_parameters()]
    before = [value.detach().clone() for value in learned]
    optimiser, objective, losses = torch.optim.SGD(learned, lr=1e-4), DPO(beta=0.1), []
    for _ in range(2):
        for step in module.epoch_loader():
            for batch in step.micro_batches:
                with torch.no_grad(), policy.reference():
                    reference = policy.score(batch.scoring).total
                scores = policy.score(batch.scoring)
                if scores.total.shape[1] > 2:  # DPO is for pairs: the first rejected answer
                    scores.total, reference, scores.counts = scores.total[:, :2], reference[:, :2], scores.counts[:, :2]
                loss = objective(scores.total, reference, scores.counts).loss.mean()
                loss.backward()
                losses.append(float(loss.detach()))
            optimiser.step()
            optimiser.zero_grad()
    assert len(losses) == 2 and losses[1] < losses[0]
    with torch.no_grad():
        for value, old in zip(learned, before, strict=True):
            value.copy_(old)


def test_the_table_names_keys_that_exist() -> None:
    assert len(KEYS) > 25 and {"loss.beta", "data.path", "trainer.micro_batch_size", "reference.mode"} <= set(KEYS)
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    parts = ("data.", "loss.")  # keys of parts: arguments of what the choice names
    text = "".join(path.read_text("utf-8") for path in (ROOT / "conf").rglob("*.yaml"))
    for key in KEYS:
        known = key in groups or (
            rule_at(key) is not None if not key.startswith(parts) else f"{key.split('.')[1]}:" in text
        )
        assert known, f"{key} is no key"
