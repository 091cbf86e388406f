"""Pairs on the fly with the real tiny base: work is reused by content, a killed build goes on, every sample is accounted for."""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from augment.view import build
from datamodules.formats.image_folder import ImageFolderSource
from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.preference import NoPairs, PreferenceDataModule
from datamodules.references import reference_name
from datamodules.shapes.source import ShapesSource
from parallax.preference.judges import ByConstruction
from parallax.preference.proposers import ByView, Given
from parallax.preference.selector import BestAgainstRest
from parallax.records.pair_store import PairSet
from parallax.records.skipped import TooManySkipped
from tests import typed

COUNT = 10


def data(
    cache: Path, source: Any = None, step: int = 600, k: int = 1, tokens: int = 24, seed: int = 0, **options: Any
) -> PreferenceDataModule:
    view = build({"name": "diffusion", "noise_steps": step})
    return PreferenceDataModule(
        source if source is not None else ShapesSource("pairs_habit_free", COUNT),
        ByView(view, k, max_new_tokens=tokens), ByConstruction(), BestAgainstRest(k), cache_dir=cache, seed=seed,
        **({"trainer": typed.trainer(batch_size=4, micro_batch_size=3), "generation": typed.generation(batch_size=8)} | options),
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, policy: Any) -> Path:
    """A cache in which the pairs of step 600 and seed 0 have been built once."""
    folder = tmp_path_factory.mktemp("cache")
    data(folder).build_pairs(policy)
    return folder


def test_a_first_build_generates_both_sides_and_accounts_for_every_sample(
    tmp_path: Path, policy: Any, caplog: Any
) -> None:
    module = data(tmp_path)
    with caplog.at_level(logging.INFO):
        report = module.build_pairs(policy)
    assert (report.built, report.reused, report.samples) == (2 * COUNT, 0, COUNT)
    assert report.kept + sum(report.dropped.values()) + sum(report.skipped.values()) == COUNT
    assert report.kept == len(module.pairs) > 0
    assert re.search(
        rf"pairs: {report.kept} kept of {COUNT}.*; {2 * COUNT} generated, 0 reused from the cache", caplog.text
    )
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_second_build_reuses_everything_and_gives_the_same_set(cache: Path, policy: Any) -> None:
    one, other = data(cache), data(cache)
    first, second = one.build_pairs(policy), other.build_pairs(policy)
    assert (first.built, first.reused) == (second.built, second.reused) == (0, 2 * COUNT)
    assert one.pairs == other.pairs and first.pair_set == second.pair_set


def test_another_noise_step_generates_only_the_corrupted_side(cache: Path, policy: Any) -> None:
    report = data(cache, step=700).build_pairs(policy)
    assert (report.built, report.reused) == (COUNT, COUNT)


def test_more_negatives_and_another_seed_generate_only_what_is_new(cache: Path, policy: Any) -> None:
    more = data(cache, k=3).build_pairs(policy)
    assert (more.built, more.reused) == (2 * COUNT, 2 * COUNT)
    seed = data(cache, seed=1).build_pairs(policy)  # clean sides are the same whatever the seed
    assert (seed.built, seed.reused) == (COUNT, COUNT)


def test_neither_lora_nor_batches_nor_filters_cause_new_work(cache: Path, policy: Any) -> None:
    from tests.typed import load_policy

    other = load_policy(
        {"name": "tiny_llava", "path": policy.path, "family": "llava", "dtype": "float32"}, {"r": 16, "enabled": True}
    )
    module = data(
        cache,
        pairs=typed.pairs(max_pairs=3, repeat=2),
        trainer=typed.trainer(batch_size=2),
        generation=typed.generation(batch_size=3),
    )
    report = module.build_pairs(other)
    assert (report.built, report.reused, report.kept) == (0, 2 * COUNT, 3) and report.dropped["over_cap"] > 0


def test_a_policy_that_has_learned_answers_anew(cache: Path, policy: Any) -> None:
    from tests.typed import load_policy

    other = load_policy(
        {"name": "tiny_llava", "path": policy.path, "family": "llava", "dtype": "float32"}, {"r": 2, "enabled": True}
    )
    with torch.no_grad():
        for _, parameter in other.trainable_parameters():
            parameter += 0.01
    other.touched()
    report = data(cache, ShapesSource("pairs_habit_free", 2)).build_pairs(other)
    assert (report.built, report.reused) == (4, 0)


def test_lightnings_predict_loop_builds_the_same_pairs(cache: Path, tmp_path: Path, policy: Any) -> None:
    direct, looped = data(cache), data(tmp_path)
    direct.build_pairs(policy)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    report = looped.build_pairs(policy, trainer)
    assert (
        report.built == 2 * COUNT and looped.pairs == direct.pairs and report.key == data(cache).build_pairs(policy).key
    )


def test_the_pair_set_is_readable_and_says_what_made_it(cache: Path, policy: Any, tmp_path: Path) -> None:
    source = ShapesSource("pairs_habit_free", COUNT)
    module = data(cache, source)
    report = module.build_pairs(policy)
    manifest = json.loads((report.pair_set / "manifest.json").read_text())
    assert manifest["policy"]["fingerprint"] == policy.fingerprint() and manifest["seed"] == 0
    assert manifest["pairs"] == report.kept and manifest["dropped"] == dict(sorted(report.dropped.items()))
    assert manifest["proposer"]["view"]["params"]["noise_steps"] == 600
    images = {sample.id: sample.image for sample in source}
    assert PairSet(report.pair_set).load(lambda sample, name: images[sample]) == module.pairs
    rows = datasets.load_dataset(
        "parquet", data_files=str(report.pair_set / "pairs.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert rows["pair_id"][:] == module.pair_ids
    assert json.loads(rows[0]["rejected_provenance"][0])["view"]["name"] == "diffusion"


def _build_one_by_one(folder: Path, policy: Any) -> None:
    torch.set_num_threads(1)
    data(folder, generation=typed.generation(batch_size=1)).build_pairs(policy)


def test_a_killed_build_goes_on_where_it_was_and_gives_the_same_set(cache: Path, tmp_path: Path, policy: Any) -> None:
    builder = multiprocessing.get_context("fork").Process(target=_build_one_by_one, args=(tmp_path, policy))
    builder.start()
    shards, deadline = tmp_path / "candidates", time.monotonic() + 120
    while len(list(shards.glob("0*.parquet"))) < 4 and builder.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    builder.kill()
    builder.join()
    assert not (tmp_path / "pairs").exists()
    again, whole = data(tmp_path), data(cache)
    report = again.build_pairs(policy)
    assert report.reused >= 4 and report.built == 2 * COUNT - report.reused
    assert whole.build_pairs(policy).key == report.key and again.pairs == whole.pairs


def test_bad_photographs_and_long_prompts_are_set_aside_not_fatal(root: Path, tmp_path: Path, policy: Any) -> None:
    (root / "cut.jpg").write_bytes((root / "gqa/images/1.jpg").read_bytes()[:900])
    (root / "zero.png").write_bytes(b"")
    (root / "out.png").symlink_to(tmp_path / "elsewhere.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere.png")
    source = ImageFolderSource(root, ["Describe the image.", "word " * 3000])
    long = sum(len(sample.question) > 100 and "/" in sample.id for sample in source)
    module = data(
        tmp_path / "cache", source, skipped=tmp_path / "skipped.jsonl", pairs=typed.pairs(max_skipped_share=1.0)
    )
    report = module.build_pairs(policy)
    assert report.skipped == {"bad_image": 3, **({"long_prompt": long} if long else {})}
    assert report.samples == 13 == report.kept + sum(report.dropped.values()) + sum(report.skipped.values())
    lines = {
        line["item"]: line["why"] for line in map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    }
    assert {"cut.jpg", "zero.png", "out.png"} <= set(lines) and "leaves the image root" in lines["out.png"]
    strict = data(tmp_path / "cache", source, pairs=typed.pairs(max_skipped_share=0.0))
    with pytest.raises(TooManySkipped, match="pairs.max_skipped_share"):
        strict.build_pairs(policy)


def test_pairs_that_all_come_out_equal_stop_with_advice(tmp_path: Path, policy: Any) -> None:
    with pytest.raises(NoPairs, match=r"0 kept of 3 \(3 equal\).*raise aug\.noise_steps"):
        data(tmp_path, ShapesSource("pairs_habit_free", 3), step=0).build_pairs(policy)


# -- serving -----------------------------------------------------------------------------------------------------------


def test_steps_carry_the_references_own_log_probs(cache: Path, policy: Any) -> None:
    module = data(cache)
    module.build_pairs(policy)
    with pytest.raises(RuntimeError, match="fill_reference"):
        module.epoch_loader()
    computed = module.fill_reference(policy, batch_size=3)
    assert computed in (0, len(module.pairs)) and module.fill_reference(policy) == 0  # another test may have been first
    seen = []
    for step in module.epoch_loader(epoch=1):
        assert step.pairs_in_step == len(step) <= 4
        for batch in step.micro_batches:
            with torch.no_grad(), policy.reference():
                live = policy.score(batch.scoring).total
            torch.testing.assert_close(batch.reference_log_probs, live, rtol=1e-4, atol=1e-4)
            assert batch.lengths.tolist() == batch.scoring.response_lengths.tolist()
            seen += batch.pair_ids
    assert sorted(seen) == sorted(module.pair_ids) and len(list(module.epoch_loader())) == module.steps_per_epoch()


def test_references_scored_in_another_precision_are_other_references(policy: Any) -> None:
    mixed = pl.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False)
    plain = pl.Trainer(accelerator="cpu", precision="32-true", logger=False, enable_checkpointing=False)
    assert reference_name(policy, mixed) != reference_name(policy) == reference_name(policy, plain)


def test_references_of_another_scorer_are_other_references(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from parallax.models.scoring.log_probs import separate_sequences

    before = reference_name(policy)
    monkeypatch.setattr(policy, "layout", separate_sequences)
    assert reference_name(policy) != before


def test_before_the_first_step_policy_and_reference_agree_to_the_last_bit(cache: Path, policy: Any) -> None:
    """The reference is scored by the scorer of training, so a reward at step 0 is 0 and not a rounding error."""
    module = data(cache, reference_mode="live")
    module.build_pairs(policy)
    batch = next(iter(module.epoch_loader())).micro_batches[0].scoring
    with torch.no_grad(), policy.reference():
        reference = policy.score(batch).total
    policy.for_preference_training()
    try:
        assert torch.equal(policy.score(batch).total.detach(), reference)
    finally:
        policy.model.eval()


def test_steps_resume_anywhere_and_workers_change_nothing(cache: Path, policy: Any) -> None:
    module = data(cache, reference_mode="live")
    module.build_pairs(policy)
    whole = [[b.pair_ids for b in step.micro_batches] for step in module.epoch_loader(3)]
    rest = [[b.pair_ids for b in step.micro_batches] for step in module.epoch_loader(3, first_step=1)]
    assert rest == whole[1:] and whole != [[b.pair_ids for b in s.micro_batches] for s in module.epoch_loader(4)]
    module.num_workers = 1
    (first, *_), (other, *_) = module.epoch_loader(3), list(data_with_same_pairs(module, policy).epoch_loader(3))
    one, two = first.micro_batches[0].scoring, other.micro_batches[0].scoring
    assert torch.equal(one.response_ids, two.response_ids) and torch.equal(one.prompt_ids, two.prompt_ids)
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(one.vision, two.vision, strict=True))


def data_with_same_pairs(module: PreferenceDataModule, policy: Any) -> PreferenceDataModule:
    other = data(module.cache_dir, reference_mode="live")
    other.build_pairs(policy)
    return other


def test_lengths_are_those_of_the_encoded_rows_and_padding_is_told(cache: Path, policy: Any, caplog: Any) -> None:
    module = data(
        cache, reference_mode="live", trainer=typed.trainer(batch_size=8, micro_batch_size=2, micro_batch_tokens="auto")
    )
    module.build_pairs(policy)
    lengths = module.row_lengths()
    assert lengths is not None and lengths.rows == 1  # the shared layout: a row holds the prompt and all its responses
    batches = {
        batch.pair_ids[0]: batch for batch in map(module._batches(None), [[p] for p in range(len(module.pairs))])
    }
    for place, pair_id in enumerate(module.pair_ids):
        row = int(batches[pair_id].scoring.prompt_lengths[0] + batches[pair_id].scoring.response_lengths[0].sum())
        assert (lengths.widths[place], lengths.tokens[place]) == (row, row)
    with caplog.at_level(logging.INFO):
        steps = list(module.epoch_loader())
        module.epoch_loader(1)
    assert len(re.findall(r"padding \d+\.\d% of tokens in micro-batches of at most [\d,]+ tokens", caplog.text)) == 1
    budget, computed = module.tokens_per_pass() or 0, 0
    for batch in (batch for step in steps for batch in step.micro_batches):
        scoring = batch.scoring
        width = int((scoring.prompt_lengths + scoring.response_lengths.sum(dim=1)).max())
        assert len(batch) * width <= budget
        computed += len(batch) * width
    assert module.padding is not None and module.padding.computed == computed
    assert module.padding.tokens == int(lengths.tokens.sum())


def test_the_reference_is_scored_under_the_same_budget(cache: Path, policy: Any, tmp_path: Path) -> None:
    module = data(cache, trainer=typed.trainer(batch_size=8, micro_batch_size=2, micro_batch_tokens="auto"))
    module.build_pairs(policy)
    lengths, passes = module.row_lengths(), module.passes(range(len(module.pairs)))
    assert lengths is not None and sorted(place for places in passes for place in places) == list(range(len(lengths)))
    most = max(len(places) * int(lengths.widths[places].max()) for places in passes)
    assert most <= (module.tokens_per_pass() or 0)
    module.cache_dir = tmp_path
    assert module.fill_reference(policy) == len(module.pairs)
    packed = module.reference_log_probs
    module.cache_dir = tmp_path / "one by one"
    module.fill_reference(policy, batch_size=1)
    torch.testing.assert_close(torch.tensor(packed), torch.tensor(module.reference_log_probs), rtol=1e-5, atol=1e-4)
    assert module.references == {"computed": len(module.pairs), "reused": 0}


def test_repeat_lists_every_pair_so_often(cache: Path, policy: Any) -> None:
    module = data(cache, reference_mode="live", pairs=typed.pairs(repeat=2))
    module.build_pairs(policy)
    ids = [name for step in module.epoch_loader() for batch in step.micro_batches for name in batch.pair_ids]
    assert sorted(ids) == sorted(module.pair_ids * 2)


def test_two_processes_share_a_step_and_keep_in_step(cache: Path, policy: Any) -> None:
    module = data(cache, reference_mode="live")
    module.build_pairs(policy)
    ranks = [list(module.epoch_loader(0, rank=rank, world_size=2)) for rank in range(2)]
    for alone, *parts in zip(module.epoch_loader(), *ranks, strict=True):
        counted = [name for part in parts for batch in part.micro_batches if batch.weight for name in batch.pair_ids]
        assert sorted(counted) == sorted(name for batch in alone.micro_batches for name in batch.pair_ids)
        assert len({len(part.micro_batches) for part in parts}) == 1
        assert {part.pairs_in_step for part in parts} == {alone.pairs_in_step}


def test_ready_made_pairs_are_checked_and_served_without_generation(root: Path, tmp_path: Path, policy: Any) -> None:
    rows = [
        {"image": f"gqa/images/{1 + n % 2}.jpg", "prompt": "What?", "chosen": f"A {n}.", "rejected": "No."}
        for n in range(6)
    ]
    rows += [rows[0] | {"rejected": "A  0."}, rows[0] | {"image": "none.jpg"}, rows[0] | {"image": "../x.jpg"}]
    rows += [rows[0] | {"chosen": "word " * 5000}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = PreferenceFileSource(tmp_path / "pairs.jsonl", root)
    module = PreferenceDataModule(
        source, Given(), ByConstruction(), BestAgainstRest(), cache_dir=tmp_path, trainer=typed.trainer(batch_size=4)
    )
    report = module.build_pairs(policy)
    assert (report.samples, report.kept, report.dropped) == (10, 6, {"equal": 1})
    assert report.skipped == {"bad_image": 2, "long_prompt": 1} and "given ready-made" in report.line()
    assert module.fill_reference(policy) == 6
    assert sum(len(step) for step in module.epoch_loader()) == 6


def test_asking_for_batches_before_there_are_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="call build_pairs"):
        data(tmp_path, reference_mode="live").epoch_loader()
    with pytest.raises(ValueError, match=r"reference\.mode is 'frozen'"):
        data(tmp_path, reference_mode="frozen")
