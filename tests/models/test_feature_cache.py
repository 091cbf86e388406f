"""Image features are made once, change no number, stay within their budget, and never outlive what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.encoded_steps import PairBatches
from parallax.models.encoding.image_features import FeatureCache, ImageFeatures
from parallax.records import PreferencePair, Response
from tests.models.examples import ANSWERS, PROMPTS, SIZES, Picture


def pairs() -> list[PreferencePair]:
    return [
        PreferencePair(f"s{n}", "test", Picture(n, SIZES[n]), PROMPTS[n], Response(ANSWERS[n]), (Response(ANSWERS[n + 1]),))
        for n in range(3)
    ]  # fmt: skip


def towers(policy: Any) -> list[int]:
    """How many images each call of the tower was given."""
    calls: list[int] = []
    core = policy.model.get_base_model().model
    module = core.visual if hasattr(core, "visual") else core.vision_tower
    module.register_forward_pre_hook(lambda m, args, kwargs: calls.append(1), with_kwargs=True)
    return calls


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_second_pass_needs_neither_pixels_nor_tower(
    family: str, kind: str, make_policy: Any, tmp_path: Path
) -> None:
    plain = make_policy(family, learned=True)
    kept = make_policy(family, learned=True, model={"feature_cache": kind}, feature_folder=tmp_path)
    ids = [pair.id for pair in pairs()]
    calls = towers(kept)
    make = PairBatches(pairs(), ids, kept.encoder, features=kept.features)
    expected = plain.score(PairBatches(pairs(), ids, plain.encoder)([0, 1, 2]).scoring).total
    first = kept.score(make([0, 1, 2]).scoring).total
    assert len(calls) == 3, "image by image"
    batch = make([2, 0, 1]).scoring
    assert not any("pixel_values" in vision for vision in batch.vision)
    again = kept.score(batch).total
    assert len(calls) == 3
    assert torch.allclose(first, expected, rtol=0, atol=1e-4)
    assert torch.allclose(again, first[[2, 0, 1]], rtol=0, atol=1e-4)
    if kind == "disk":  # another run finds them
        other = make_policy(family, learned=True, model={"feature_cache": kind}, feature_folder=tmp_path)
        more = towers(other)
        other.score(PairBatches(pairs(), ids, other.encoder, features=other.features)([0, 1, 2]).scoring)
        assert not more


def test_features_do_not_depend_on_their_neighbours(make_policy: Any) -> None:
    made = []
    for order in ([0, 1, 2], [2, 1]):
        policy = make_policy("llava", model={"feature_cache": "memory"})
        make = PairBatches(pairs(), ["a", "b", "c"], policy.encoder, features=policy.features)
        scoring = policy.features.fill(policy.model, make(order).scoring)
        made.append(dict(zip(order, scoring.features, strict=True)))
    for n in (1, 2):
        one, other = made[0][n].flat(), made[1][n].flat()
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_features_made_while_the_reference_is_scored_can_be_trained_on(make_policy: Any) -> None:
    policy = make_policy("llava", model={"feature_cache": "memory"})
    make = PairBatches(pairs(), ["a", "b", "c"], policy.encoder, features=policy.features)
    with torch.inference_mode():
        policy.score(make([0, 1]).scoring)
    policy.score(make([0, 1]).scoring).total.sum().backward()


def test_a_full_cache_takes_no_more_and_the_rest_is_made_anew(make_policy: Any) -> None:
    policy = make_policy("llava", model={"feature_cache": "memory"})
    calls = towers(policy)
    make = PairBatches(pairs(), ["a", "b", "c"], policy.encoder, features=policy.features)
    policy.score(make([0]).scoring)
    policy.features.cache.budget = 2 * policy.features.cache.used  # room for two images
    for _ in range(2):
        policy.score(make([0, 1, 2]).scoring)
    assert len(policy.features.cache) == 2 and policy.features.cache.full and len(calls) == 4


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    cache = FeatureCache(10**6, tmp_path)
    features = ImageFeatures({"pooler_output": [torch.ones(2, 3)]}, {"pooler_output": "items"})
    cache.put("abcd", features)
    (file,) = (tmp_path / "ab").iterdir()
    file.write_bytes(b"torn")
    assert FeatureCache(10**6, tmp_path).get("abcd") is None
    assert cache.put("other", features)
    assert torch.equal(cache.get("other").flat()["items:pooler_output.0"], torch.ones(2, 3))


def test_features_under_autocast_are_kept_apart(make_policy: Any) -> None:
    policy = make_policy("llava", model={"feature_cache": "memory"})
    make = PairBatches(pairs(), ["a", "b", "c"], policy.encoder, features=policy.features)
    policy.score(make([0]).scoring)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        policy.score(make([0]).scoring)
    assert len(policy.features.cache) == 2


def test_a_projector_that_learns_is_never_cached(make_policy: Any) -> None:
    assert make_policy("llava", model={"feature_cache": "auto", "train_projector": True}).features is None
    with pytest.raises(
        ValueError, match=r"a tower or projector that learns changes them; use model\.feature_cache=none"
    ):
        make_policy("llava", model={"feature_cache": "memory", "train_projector": True})
