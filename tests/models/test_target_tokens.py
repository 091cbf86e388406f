"""Tokens the network prefers to the given ones: by hand on logits, and against plain scoring on a real model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from parallax.models.batch import ScoringBatch
from parallax.models.policy import Policy
from parallax.models.scoring.log_probs import own_choice
from tests.models.examples import prompts_and_responses

LOGITS = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 0.0, 1.0, 4.0], [0.0, 0.0, 0.0, 9.0]])


def batch_for(policy: Policy) -> ScoringBatch:
    return policy.encoder.collate(prompts_and_responses(policy, 2))


@pytest.mark.parametrize(
    ("pick", "labels", "expected"),
    [
        ("label", [1, 2, 3], [1, 2, 3]),
        ("argmax", [1, 2, 3], [1, 0, 3]),
        ("argmax_not_label", [1, 2, 0], [2, 0, 3]),  # the first label is the best token: the second best is taken
        ("argmax_not_label", [0, 0, 0], [1, 3, 3]),
    ],
)
def test_choices_by_hand(pick: str, labels: list[int], expected: list[int]) -> None:
    assert own_choice(LOGITS, torch.tensor(labels), pick).tolist() == expected  # type: ignore[arg-type]


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of label, argmax, argmax_not_label"):
        own_choice(LOGITS, torch.tensor([0, 0, 0]), "best")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["separate", "shared"])
def test_only_rejected_responses_are_scored_on_the_networks_own_tokens(
    make_policy: Callable[..., Policy], layout: str
) -> None:
    policy = make_policy(model={"layout": layout}, learned=True)
    batch = batch_for(policy)
    with torch.no_grad():
        label, own = policy.score(batch), policy.score(batch, "argmax")
        best = policy.choose(batch)
        given = policy.score(replace(batch, target_ids=best))
    assert torch.equal(own.total[:, 0], label.total[:, 0])
    assert torch.equal(own.counts, label.counts)
    assert (
        own.per_token[:, 1:] >= label.per_token[:, 1:]
    ).all()  # the best token is at least as likely as the given one
    torch.testing.assert_close(given.total[:, 1:], own.total[:, 1:])
    with torch.no_grad():
        other = policy.score(batch, "argmax_not_label")
    same = best[:, 1:] == batch.response_ids[:, 1:]
    counted = batch.counted()[:, 1:]
    torch.testing.assert_close(other.per_token[:, 1:][counted & ~same], own.per_token[:, 1:][counted & ~same])


def test_both_layouts_choose_alike(make_policy: Callable[..., Policy]) -> None:
    chosen = []
    for layout in ("separate", "shared"):
        policy = make_policy(model={"layout": layout, "dtype": "float64"}, learned=True)
        chosen.append(policy.choose(batch_for(policy)))
    assert torch.equal(*chosen)


def test_targets_that_are_the_responses_own_change_nothing(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy(learned=True)
    batch = batch_for(policy)
    with torch.no_grad():
        assert torch.equal(policy.score(replace(batch, target_ids=batch.response_ids)).total, policy.score(batch).total)
