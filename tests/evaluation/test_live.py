"""Evaluation of a live policy: a real (tiny, random) model, real image files, and everything put back afterwards."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parallax.evaluation import AccuracySuite, ChairSuite, Evaluation, difference, evaluate
from parallax.models.generation.requests import GenerationRequest
from parallax.models.policy import Policy
from parallax.preference.infusion import Describe
from parallax.records import Decoding, Sample, Turn, ViewSpec
from parallax.records.skipped import TooManySkipped
from tests.evaluation.pictures import painted
from tests.models.checkpoints import write_checkpoint
from tests.parts import part
from tests.typed import load_policy

NOISE = ViewSpec("diffusion", {"noise_steps": 700}, seed=3)

TEMPLATE = "Image description:\n{description}\n\n{question}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "llava"
    write_checkpoint("llava", folder)
    return folder


@pytest.fixture
def policy(checkpoint: Path) -> Policy:
    torch.set_num_threads(1)
    return load_policy({"name": "tiny", "path": str(checkpoint)}, {"r": 4})


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return painted(tmp_path, 6)


def letters(text: str) -> list[str]:
    """An extractor that finds something in the noise a random model writes."""
    return [letter for letter in text.lower() if letter in "abcdefgh"]


def suites(samples: list[Sample], tokens: int = 6) -> list[Any]:
    return [
        part(ChairSuite, samples, letters, max_new_tokens=tokens),
        part(AccuracySuite, samples, max_new_tokens=tokens - 3),
    ]


def learn(policy: Policy) -> None:
    """Give the adapter weights that change the answers."""
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    policy.touched()


def test_answers_are_the_policys_greedy_answers(policy: Policy, samples: list[Sample]) -> None:
    evaluation = evaluate(policy, suites(samples), batch_size=4)
    requests = [GenerationRequest(s.id, s.image, s.question, ViewSpec(), Decoding(6)) for s in samples]
    alone = {request.sample_id: policy.generate([request])[0].text for request in requests}
    answered = {item.sample_id: item.answer for item in evaluation.items if item.suite == "chair"}
    assert answered == alone
    assert set(evaluation.metrics) == {"chair_i", "chair_s", "recall", "accuracy", "accuracy/colour"}
    assert evaluation.metrics["accuracy"].n == 6 and evaluation.meta["policy"] == policy.fingerprint()


def test_the_policy_is_left_as_it_was_found(policy: Policy, samples: list[Sample]) -> None:
    policy.model.train()
    frozen = next(module for module in policy.model.modules() if isinstance(module, torch.nn.LayerNorm))
    frozen.eval()
    modes = {name: module.training for name, module in policy.model.named_modules()}
    weights = {name: value.clone() for name, value in policy.model.state_dict().items()}
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    evaluate(policy, suites(samples), decoding=Decoding(1, temperature=0.7), view=NOISE)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert {name: module.training for name, module in policy.model.named_modules()} == modes
    assert all(torch.equal(value, weights[name]) for name, value in policy.model.state_dict().items())


def test_a_second_evaluation_generates_nothing_and_says_the_same(
    policy: Policy, samples: list[Sample], tmp_path: Path
) -> None:
    first = evaluate(policy, suites(samples), cache_dir=tmp_path / "cache")
    finished: list[int] = []
    policy.generate = None  # type: ignore[assignment,method-assign]  # would fail if it were called
    second = evaluate(policy, suites(samples), cache_dir=tmp_path / "cache", progress=finished.append)
    assert first.meta["reused"] == [] and second.meta["reused"] == ["chair", "accuracy"]
    assert second.items == first.items and second.metrics == first.metrics and sum(finished) == 12


def test_kept_answers_are_scored_again_so_a_changed_metric_is_never_stale(
    policy: Policy, samples: list[Sample], tmp_path: Path
) -> None:
    evaluate(policy, [part(AccuracySuite, samples, max_new_tokens=6)], cache_dir=tmp_path / "cache")
    always = part(AccuracySuite, samples, same=lambda kind, said, true: True, max_new_tokens=6)
    again = evaluate(policy, [always], cache_dir=tmp_path / "cache")
    assert again.meta["reused"] == ["accuracy"] and again.metrics["accuracy"].value == 1.0


@pytest.mark.parametrize("change", ["weights", "view", "tokens", "question", "image", "decoding"])
def test_whatever_changes_the_answers_is_not_reused(
    policy: Policy, samples: list[Sample], tmp_path: Path, change: str
) -> None:
    evaluate(policy, suites(samples), cache_dir=tmp_path / "cache")
    options: dict[str, Any] = {}
    tokens = 7 if change == "tokens" else 6
    if change == "weights":
        learn(policy)
    if change == "view":
        options["view"] = NOISE
    if change == "decoding":
        options["decoding"] = Decoding(1, temperature=1.0)
    if change == "question":
        samples = [replace(s, turns=(replace(s.turns[0], question="Which colour?"),)) for s in samples]
    if change == "image":
        samples = [replace(samples[0], image=painted(tmp_path, 7)[6].image), *samples[1:]]
    assert evaluate(policy, suites(samples, tokens), cache_dir=tmp_path / "cache", **options).meta["reused"] == []


def test_a_torn_cache_file_is_made_again(policy: Policy, samples: list[Sample], tmp_path: Path) -> None:
    first = evaluate(policy, suites(samples), cache_dir=tmp_path / "cache")
    for file in (tmp_path / "cache" / "evaluations").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    second = evaluate(policy, suites(samples), cache_dir=tmp_path / "cache")
    assert second.meta["reused"] == [] and second.items == first.items


def test_an_evaluation_under_a_view_is_repeatable_and_gives_each_sample_its_own_noise(
    policy: Policy, samples: list[Sample]
) -> None:
    first, second = (evaluate(policy, suites(samples), view=NOISE, batch_size=n) for n in (2, 6))
    assert first.items == second.items and first.meta["view"]["name"] == "diffusion"
    from parallax.evaluation.live import _view_of

    seeds = {_view_of(NOISE, s.id).seed for s in samples}
    assert len(seeds) == 6 and _view_of(NOISE, "s0") == _view_of(NOISE, "s0")
    assert _view_of(None, "s0") == _view_of(ViewSpec(), "s0") == ViewSpec()


@pytest.mark.parametrize("cached", [False, True])
def test_bad_images_are_set_aside_with_their_reason(
    policy: Policy, samples: list[Sample], tmp_path: Path, cached: bool
) -> None:
    (tmp_path / "2.png").unlink()
    (tmp_path / "4.png").write_bytes(b"not an image")
    options = {"cache_dir": tmp_path / "cache"} if cached else {}
    for _ in range(2):
        evaluation = evaluate(policy, suites(samples), skipped_file=tmp_path / "skipped.jsonl", **options)  # type: ignore[arg-type]
        assert {row["sample_id"] for row in evaluation.skipped} == {"s2", "s4"}
        assert "missing" in evaluation.skipped[0]["reason"] and evaluation.metrics["accuracy"].n == 4
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 4  # two samples in two suites, once each


def test_too_many_bad_images_stop_the_evaluation(policy: Policy, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "2.png").unlink()
    with pytest.raises(TooManySkipped, match="1 of 6"):
        evaluate(policy, suites(samples), max_skipped_share=0.0)


def test_suites_need_names_and_metrics_of_their_own(policy: Policy, samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="distinct names"):
        evaluate(policy, [*suites(samples), *suites(samples)])
    twin = ChairSuite(samples, letters, name="other", max_new_tokens=6)
    with pytest.raises(ValueError, match="both report 'chair_i'"):
        evaluate(policy, [*suites(samples), twin])
    named = ChairSuite(samples, letters, name="other", max_new_tokens=6, prefix="other/")
    metrics = evaluate(policy, [*suites(samples), named]).metrics
    assert metrics["other/chair_i"] == metrics["chair_i"]


def test_files_hold_everything(policy: Policy, samples: list[Sample], tmp_path: Path) -> None:
    import pandas as pd

    evaluation = evaluate(policy, suites(samples))
    assert Evaluation.load(evaluation.save(tmp_path / "a" / "before.json")) == evaluation
    frame = pd.read_parquet(evaluation.save(tmp_path / "items.parquet"))
    assert len(frame) == 12 and frame["accuracy/denominator"].sum() == 6
    with pytest.raises(ValueError, match=r"\.json or \.parquet"):
        evaluation.save(tmp_path / "a.csv")
    (tmp_path / "old.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="evaluate again"):
        Evaluation.load(tmp_path / "old.json")


def test_a_difference_counts_only_questions_both_have_answered(policy: Policy, samples: list[Sample]) -> None:
    before = evaluate(policy, [part(AccuracySuite, samples, lambda *_: False, max_new_tokens=4)])
    after = evaluate(policy, [part(AccuracySuite, samples[:4], lambda *_: True, max_new_tokens=4)])
    change = difference(before, after)
    assert change["accuracy"].value == 1.0 and change["accuracy"].n == 4
    assert difference(before, after, relative=True)["accuracy"].value is None  # nothing was right before


def test_evaluation_works_with_any_callable_for_progress(policy: Policy, samples: list[Sample]) -> None:
    done: Callable[[int], None]
    counted: list[int] = []
    done = counted.append
    evaluate(policy, suites(samples), batch_size=4, progress=done)
    assert sum(counted) == 12


def test_describing_first_puts_the_policys_own_description_before_the_question(
    policy: Policy, samples: list[Sample], tmp_path: Path
) -> None:
    describe = Describe("Describe the image.", 5, "{description} | {question}")
    twice = [*samples[:3], replace(samples[0], id="again", turns=(Turn("And now?", "red"),))]
    suite = part(AccuracySuite, twice, max_new_tokens=4)
    evaluation = evaluate(policy, [suite], describe=describe, cache_dir=tmp_path / "cache")
    for item, sample in zip(evaluation.items, twice, strict=True):
        asked = GenerationRequest(sample.id, sample.image, describe.prompt, ViewSpec(), Decoding(5))
        (described,) = policy.generate([asked])
        (answer,) = policy.generate(
            [replace(asked, prompt=f"{described.text} | {sample.question}", decoding=Decoding(4))]
        )
        assert item.answer == answer.text and item.question == sample.question
    assert evaluation.meta["describe"] == {
        "prompt": "Describe the image.",
        "max_new_tokens": 5,
        "template": describe.template,
    }
    assert evaluate(policy, [suite], describe=describe, cache_dir=tmp_path / "cache").meta["reused"] == ["accuracy"]


def test_describing_first_leaves_suites_that_ask_for_descriptions_as_they_are(
    policy: Policy, samples: list[Sample]
) -> None:
    chair = [part(ChairSuite, samples, letters, max_new_tokens=6)]
    plain = evaluate(policy, chair)
    described = evaluate(policy, chair, describe=Describe("Describe the image.", 5, TEMPLATE))
    assert [item.answer for item in plain.items] == [item.answer for item in described.items]


def test_an_image_that_cannot_be_described_sets_its_questions_aside(policy: Policy, tmp_path: Path) -> None:
    samples = painted(tmp_path, 3)
    (tmp_path / "1.png").unlink()
    suite = [part(AccuracySuite, samples, max_new_tokens=3)]
    evaluation = evaluate(policy, suite, describe=Describe("Describe.", 3, TEMPLATE), max_skipped_share=0.9)
    assert [entry["sample_id"] for entry in evaluation.skipped] == ["s1"] and len(evaluation.items) == 2
