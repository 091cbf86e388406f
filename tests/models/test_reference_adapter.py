"""The reference may be an earlier adapter: kept, compared with, named, and never in the way of what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parallax.models.batch import ScoringBatch
from parallax.models.policy import Policy
from tests.models.examples import prompts_and_responses

NewPolicy = Callable[..., Policy]


def batch_for(policy: Policy) -> ScoringBatch:
    return policy.encoder.collate(prompts_and_responses(policy, 2))


def totals(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.score(batch_for(policy)).total


def learn(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, value in policy.trainable_parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    policy.touched()


def test_the_reference_is_the_policy_as_it_was_when_taken(make_policy: NewPolicy) -> None:
    policy = make_policy(learned=True)
    then, name = totals(policy), policy.fingerprint()
    policy.take_reference()
    learn(policy, 1)
    assert not torch.equal(totals(policy), then)
    with policy.reference():
        assert torch.equal(totals(policy), then) and policy.fingerprint() == name
    assert policy.reference_fingerprint() == name != policy.fingerprint()


def test_an_adapter_that_has_learned_nothing_leaves_the_base_as_reference(make_policy: NewPolicy) -> None:
    policy = make_policy()
    base, name = totals(policy), policy.reference_fingerprint()
    policy.take_reference()
    learn(policy, 1)
    with policy.reference():
        assert torch.equal(totals(policy), base)
    assert policy.reference_fingerprint() == name


def test_a_reference_from_disk_leaves_the_live_adapter_as_it_is(make_policy: NewPolicy, tmp_path: Path) -> None:
    older = make_policy(learned=True)
    older.save_adapter(tmp_path / "older")
    learn(older, 2)
    older.save_adapter(tmp_path / "newer")
    policy = make_policy(adapter=tmp_path / "newer")
    live, name = totals(policy), policy.fingerprint()
    policy.take_reference(tmp_path / "older")
    assert torch.equal(totals(policy), live) and policy.fingerprint() == name
    with policy.reference():
        assert torch.equal(totals(policy), totals(make_policy(learned=True)))
    assert policy.reference_fingerprint() == make_policy(learned=True).fingerprint()


def test_looking_at_the_reference_between_forward_and_backward_changes_no_gradient(make_policy: NewPolicy) -> None:
    gradients = []
    for looks in (False, True):
        policy = make_policy(learned=True)
        policy.take_reference()
        learn(policy, 1)
        loss = policy.score(batch_for(policy)).total.sum()
        if looks:
            with torch.no_grad(), policy.reference():
                policy.score(batch_for(policy))
        loss.backward()
        gradients.append([value.grad for _, value in policy.trainable_parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and torch.equal(one, other)


def test_the_kept_adapter_is_neither_trained_nor_saved(make_policy: NewPolicy, tmp_path: Path) -> None:
    policy = make_policy(learned=True)
    names = [name for name, _ in policy.trainable_parameters()]
    policy.take_reference()
    with policy.reference():
        pass
    assert [name for name, _ in policy.trainable_parameters()] == names
    policy.save_adapter(tmp_path / "kept")
    make_policy(learned=True).save_adapter(tmp_path / "plain")
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("kept", "plain")]
    assert files[0] == files[1] and not (tmp_path / "kept" / "reference").exists()


def test_with_full_fine_tuning_the_reference_is_a_frozen_copy(make_policy: NewPolicy) -> None:
    policy = make_policy(lora={"enabled": False})
    then = totals(policy)
    policy.take_reference()
    learn(policy, 1)
    with policy.reference():
        assert torch.equal(totals(policy), then)


def test_an_adapter_of_another_shape_is_refused(make_policy: NewPolicy, tmp_path: Path) -> None:
    make_policy(lora={"r": 2}, learned=True).save_adapter(tmp_path / "narrow")
    with pytest.raises(ValueError, match="keys of another shape"):
        make_policy(learned=True).take_reference(tmp_path / "narrow")
