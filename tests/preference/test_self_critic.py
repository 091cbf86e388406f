"""The self-critic by hand-made verdicts: orders, agreement, reasons, records; and with a real model, the cache and the guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.preference import NoPairs, PreferenceDataModule
from datamodules.shapes.source import ShapesSource
from parallax.preference.judge import Judgement
from parallax.preference.judges import SelfCritic
from parallax.preference.proposer import Ask
from parallax.preference.proposers import Sampled
from parallax.preference.selector import BestAgainstRest
from parallax.records import Candidate, Decoding, Dropped, GenerationSpec, PreferencePair, ViewSpec
from tests import typed
from tests.parts import part
from tests.typed import load_policy

SAMPLE = ShapesSource("pairs_habit_free", 1)[0]
SPEC = GenerationSpec("p", "float32", "x", "t", "i", "What?", ViewSpec(), Decoding(8))
Says = Callable[[str, str], str]  # (answer shown first, answer shown second) -> what the critic says


def group(*texts: str) -> list[Candidate]:
    """The greedy answer, then the samples."""
    return [
        Candidate(f"{k:032x}", SAMPLE.id, "sample" if k else "greedy", max(k - 1, 0), (k,), text, True, SPEC)
        for k, text in enumerate(texts)
    ]


class Critic:
    """Answers critics' prompts by a rule on the two answers shown, and remembers them."""

    def __init__(self, says: Says) -> None:
        self.says, self.asked = says, []  # type: ignore[var-annotated]

    def __call__(self, asks: Sequence[Ask]) -> list[Candidate]:
        made = []
        for ask in asks:
            lines = ask.request.prompt.splitlines()
            shown = [lines[lines.index(f"Answer {number}:") + 1] for number in (1, 2)]
            self.asked.append(ask)
            made.append(replace(group("x")[0], text=self.says(*shown)))
        return made


def judged(says: Says, *texts: str, sample: Any = SAMPLE, seed: int = 0, **options: Any) -> tuple[Judgement, Critic]:
    critic = Critic(says)
    judge = part(SelfCritic, "critic_short", **options)
    (made,) = judge.judge(None, [sample], [group(*texts)], seed=seed, generate=critic)
    return made, critic


def longer(first: str, second: str) -> str:
    return "[[1]]" if len(first) > len(second) else "[[2]]"


def test_both_orders_are_asked_and_an_agreed_verdict_scores() -> None:
    made, critic = judged(longer, "short", "much longer")
    assert [ask.request.prompt.index("much") < ask.request.prompt.index("short") for ask in critic.asked] == [
        True,
        False,
    ]
    assert made.scores == (-1.0, 1.0) and not made.reason
    assert made.counts == {"verdicts": 2, "verdicts_first": 1, "verdicts_second": 1}
    assert [c["verdict"] for c in made.notes["comparisons"]] == ["first", "second"]
    assert {(c["first"], c["second"]) for c in made.notes["comparisons"]} == {(0, 1), (1, 0)}


def test_the_requests_are_greedy_show_the_image_and_are_of_one_length() -> None:
    """Both orders have the same number of characters and tokens to come, so they share a batch and its image."""
    _, critic = judged(longer, "short", "much longer", max_new_tokens=8)
    requests = [ask.request for ask in critic.asked]
    assert {request.decoding for request in requests} == {Decoding(8)}
    assert {request.image for request in requests} == {SAMPLE.image} and all(r.view == ViewSpec() for r in requests)
    assert len({len(request.prompt) for request in requests}) == 1


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (lambda first, second: "[[1]]", "disagreement"),
        (lambda first, second: "It is a tie.", "tie"),
        (lambda first, second: "The picture shows a star.", "unreadable_verdict"),
        (lambda first, second: "[[tie]]" if first == "a" else "[[1]]", "disagreement"),
        (lambda first, second: "?" if first == "a" else "[[1]]", "unreadable_verdict"),
    ],
)
def test_what_is_not_agreed_on_is_dropped_with_its_reason(says: Says, reason: str) -> None:
    made, _ = judged(says, "a", "b")
    assert made.reason == reason and not made.scores
    outcome = BestAgainstRest().select(SAMPLE, group("a", "b"), made)
    assert isinstance(outcome, Dropped) and outcome.reason == reason


def test_a_liking_for_the_first_place_shows_in_the_counts() -> None:
    made, _ = judged(lambda first, second: "[[1]]", "a", "b")
    assert made.counts == {"verdicts": 2, "verdicts_first": 2}
    assert "2 verdicts, 100% of 2 for the first place" in part(SelfCritic, "critic_short").words(made.counts)


def test_a_fixed_order_shows_the_sample_first_and_a_random_one_is_drawn_per_sample_and_kept() -> None:
    made, critic = judged(lambda first, second: "[[1]]", "greedy", "sampled", order="fixed")
    assert len(critic.asked) == 1 and made.scores == (-1.0, 1.0)
    drawn = []
    for index in range(40):
        sample = replace(SAMPLE, id=f"s{index}")
        made, critic = judged(lambda first, second: "[[1]]", "greedy", "sampled", sample=sample, order="random")
        again, _ = judged(lambda first, second: "[[1]]", "greedy", "sampled", sample=sample, order="random")
        (comparison,) = made.notes["comparisons"]
        assert made == again and made.scores[comparison["first"]] == 1.0 and made.notes["order"] == "random"
        drawn.append(comparison["first"])
    assert 10 <= sum(drawn) <= 30
    other = [
        judged(longer, "a", "bb", sample=replace(SAMPLE, id=f"s{i}"), order="random", seed=1)[0] for i in range(40)
    ]
    assert [made.notes["comparisons"][0]["first"] for made in other] != drawn


def test_of_several_answers_every_two_are_compared_and_wins_are_counted() -> None:
    made, critic = judged(longer, "bb", "a", "cccc", "ddd")
    assert len(critic.asked) == 12 and made.scores == (-1.0, -3.0, 3.0, 1.0)
    pair = BestAgainstRest(2).select(SAMPLE, group("bb", "a", "cccc", "ddd"), made)
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen.text, [r.text for r in pair.rejected]) == ("cccc", ["a", "bb"])
    assert len(pair.meta["judge"]["comparisons"]) == 12


def test_equal_answers_are_not_compared_and_are_dropped_as_equal() -> None:
    made, critic = judged(longer, "same  text", "same text")
    assert critic.asked == [] and made.scores == (0.0, 0.0)
    outcome = BestAgainstRest().select(SAMPLE, group("same  text", "same text"), made)
    assert isinstance(outcome, Dropped) and outcome.reason == "equal"


def test_the_ground_truth_is_shown_hidden_or_insisted_on() -> None:
    assert SAMPLE.answer is not None
    for use, there in (("auto", True), ("always", True), ("never", False)):
        _, critic = judged(longer, "a", "bb", ground_truth=use)
        assert all((f"Reference answer:\n{SAMPLE.answer}" in ask.request.prompt) == there for ask in critic.asked), use
    blind = replace(SAMPLE, turns=(replace(SAMPLE.turns[0], answer=None),))
    made, critic = judged(longer, "a", "bb", sample=blind)
    assert made.scores and "Reference" not in critic.asked[0].request.prompt
    made, critic = judged(longer, "a", "bb", sample=blind, ground_truth="always")
    assert made.reason == "no_ground_truth" and critic.asked == []


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"judge.metrics=always, and the prompt critic_short has no text for it"):
        part(SelfCritic, "critic_short", metrics="always")
    with pytest.raises(ValueError, match="order='twice' is not allowed: it must be one of both, fixed, random"):
        part(SelfCritic, "critic_short", order="twice")  # type: ignore[arg-type]
    assert part(SelfCritic, "critic_full", metrics="never").settings() != part(SelfCritic, "critic_full").settings()


# -- with the built-in model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_policy({"path": "assets/tiny_llava"}, {"r": 4}, device="cpu", seed=0)


def module(cache: Path, judge: SelfCritic, count: int = 6, **options: Any) -> PreferenceDataModule:
    proposer = part(Sampled, 1, temperature=1.5, max_new_tokens=16, top_p=0.9)
    return PreferenceDataModule(
        ShapesSource("pairs_habit_free", count), proposer, judge, BestAgainstRest(),
        cache_dir=cache, trainer=typed.trainer(batch_size=4), generation=typed.generation(batch_size=32), **options,
    )  # fmt: skip


def test_verdicts_are_kept_in_the_cache_and_found_again(tmp_path: Path, policy: Any) -> None:
    judge = SelfCritic("critic_short", order="random", max_new_tokens=8)
    first, second = module(tmp_path, judge), module(tmp_path, judge)
    report, again = first.build_pairs(policy), second.build_pairs(policy)
    differing = report.kept + sum(count for reason, count in report.dropped.items() if reason != "equal")
    assert report.built == 12 + differing and (again.built, again.reused) == (0, report.built)
    assert report.judge["verdicts"] == differing and again.judge == report.judge and again.key == report.key
    assert all(pair.meta["judge"]["order"] == "random" for pair in first.pairs)


def test_both_orders_of_a_comparison_encode_their_image_once(tmp_path: Path, policy: Any) -> None:
    with pytest.raises(NoPairs, match="could not tell the answers apart"):  # this base likes the first place
        module(tmp_path, part(SelfCritic, "critic_short", max_new_tokens=8), count=4).build_pairs(policy)
    counts = policy.last_generation  # the last thing asked were the verdicts
    assert counts.rows == 2 * counts.images_encoded


def test_a_critics_prompt_that_does_not_fit_is_set_aside_and_not_cut(tmp_path: Path, policy: Any) -> None:
    made = module(tmp_path, part(SelfCritic, "critic_full", max_new_tokens=900), count=3)
    with pytest.raises(NoPairs):
        made.build_pairs(policy)
    assert made.report is not None and made.report.skipped == {"long_prompt": 3}
