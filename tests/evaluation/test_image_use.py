"""Does the policy still look: the numbers by hand, and what becomes of them when the policy learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from augment.occlusion import Black
from augment.view import Identity
from datamodules.shapes.source import ShapesSource
from parallax.evaluation import ImageUse, difference, evaluate
from parallax.models.policy import Policy
from parallax.reports.metric_names import direction
from parallax.reports.results import is_share, show
from tests.parts import part
from tests.typed import load_policy

ASSETS = Path(__file__).parents[2] / "assets" / "tiny_llava"


@pytest.fixture(scope="module")
def policy() -> Policy:
    model = {"name": "tiny_llava", "path": str(ASSETS), "family": "llava", "dtype": "float32"}
    return load_policy(model, {"r": 4, "enabled": True})


@pytest.fixture(scope="module")
def suite() -> ImageUse:
    return part(ImageUse, ShapesSource("tune_habit_free", 4, kinds=["describe"]), Black(), max_new_tokens=24)


def test_the_log_probs_of_the_bases_answers_are_compared_beside_both_images(
    policy: Policy, suite: ImageUse, tmp_path: Path
) -> None:
    evaluation = evaluate(policy, [suite], cache_dir=tmp_path)
    assert set(evaluation.metrics) == {"image_use_nats", "chosen_nats", "rejected_nats"}
    assert evaluation.metrics["image_use_nats"].value > 1  # the model does look  # type: ignore[operator]
    assert evaluation.metrics["chosen_nats"].value > evaluation.metrics["rejected_nats"].value  # type: ignore[operator]
    item, sample = evaluation.items[0], suite.samples[0]
    ids = policy.encoder.chat.encode_response(item.answer)
    batch = policy.encoder.collate(
        [(policy.encoder.encode_prompt(sample.image.load(), sample.question), [torch.tensor(ids)])]
    )
    with torch.no_grad():
        clean = float(policy.score(batch).total)
    assert item.scores["chosen_nats"] == (pytest.approx(clean, abs=1e-3), len(ids))


def test_its_change_is_that_of_the_log_ratios(policy: Policy, suite: ImageUse, tmp_path: Path) -> None:
    before = evaluate(policy, [suite], cache_dir=tmp_path)
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(0.05)
    policy.touched()
    after = evaluate(policy, [suite], cache_dir=tmp_path)
    assert [item.answer for item in before.items] == [
        item.answer for item in after.items
    ]  # the base's, whoever is measured
    by_hand = [
        then.scores["image_use_nats"][0] - now.scores["image_use_nats"][0]
        for then, now in zip(after.items, before.items, strict=True)
    ]
    change = difference(before, after)["image_use_nats"]
    assert change.value == pytest.approx(sum(by_hand) / len(by_hand)) and change.value != 0


def test_beside_the_same_image_there_is_nothing_to_see(policy: Policy, suite: ImageUse) -> None:
    same = part(ImageUse, suite.samples, Identity(), max_new_tokens=24)
    assert evaluate(policy, [same]).metrics["image_use_nats"].value == pytest.approx(0, abs=1e-4)


def test_nats_are_shown_as_numbers() -> None:
    assert not is_share("image_use_nats") and direction("image_use_nats") == 1 and direction("rejected_nats") == 0
    from parallax.evaluation import Metric

    assert show(Metric(1.234, 1.0, 1.5, 4), name="image_use_nats") == "1.23 [1.00, 1.50]"
