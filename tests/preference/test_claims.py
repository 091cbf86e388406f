"""The judge of claims, by hand-made replies: what is asked, what counts, what is kept; with the built-in model, probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from datamodules.preference import PreferenceDataModule
from datamodules.shapes.source import ShapesSource
from parallax.models.scoring.first_words import first_word_probabilities
from parallax.preference.claim_prompt import listed, load_claim_prompt
from parallax.preference.judge import Judgement
from parallax.preference.judges import Claims
from parallax.preference.proposer import Ask
from parallax.preference.proposers import Sampled
from parallax.preference.selector import BestAgainstRest
from parallax.records import Candidate, Decoding, GenerationSpec, PreferencePair, ViewSpec
from parallax.records.shard_folder import KeyedStore
from tests import typed
from tests.parts import part
from tests.typed import load_policy

SCENES = ShapesSource("pairs_habit_free", 6)
SAMPLE = SCENES[0]
SPEC = GenerationSpec("p", "float32", "x", "t", "i", "What?", ViewSpec(), Decoding(8))


def group(*texts: str) -> list[Candidate]:
    return [Candidate(f"{k:032x}", SAMPLE.id, "sample", k, (k,), text, True, SPEC) for k, text in enumerate(texts)]


class Says:
    """Answers by role and prompt; remembers what it was asked, call by call."""

    def __init__(self, say: Callable[[str, str], str]) -> None:
        self.say, self.calls = say, list[list[Ask]]()

    def __call__(self, asks: Sequence[Ask]) -> list[Candidate]:
        self.calls.append(list(asks))
        return [replace(group("x")[0], text=self.say(ask.role, ask.request.prompt)) for ask in asks]


def sees(*present: str) -> Says:
    return Says(lambda role, prompt: "Yes." if any(thing in prompt for thing in present) else "No.")


def judged(says: Says, *texts: str, prompt: str = "claims_short", **options: Any) -> Judgement:
    (made,) = part(Claims, prompt, **options).judge(None, [SAMPLE], [group(*texts)], seed=0, generate=says)  # type: ignore[arg-type]
    return made


def test_every_claim_is_asked_about_once_and_denied_ones_count_against_an_answer() -> None:
    says = sees("a red circle", "a blue star")
    texts = ("I see a red circle and a blue star.", "I see a red circle, a red circle and an old cat.")
    made = judged(says, *texts)
    assert [[ask.request.prompt for ask in call] for call in says.calls] == [
        [f"Is there {thing} in the image?" for thing in ("a red circle", "a blue star", "a red circle", "an old cat")]
    ]
    assert made.scores == (0.0, -1.0)
    assert made.counts == {"answers": 2, "claims": 4, "confirmed": 3, "denied": 1, "unreadable": 0, "unscored": 0}
    assert [claim["holds"] for claim in made.each[1]["claims"]] == [True, False]
    pair = BestAgainstRest().select(SAMPLE, group(*texts), made)
    assert isinstance(pair, PreferencePair) and pair.rejected[0].provenance["judge"]["claims"][1] == {
        "claim": "an old cat", "question": "Is there an old cat in the image?", "said": "No.", "holds": False,
    }  # fmt: skip


def test_all_answers_of_all_samples_are_asked_about_at_once() -> None:
    says = sees("a red circle")
    groups = [group("I see a red circle.", "I see a blue star."), group("I see a grey cat.")]
    made = part(Claims, "claims_short").judge(None, [SCENES[0], SCENES[1]], groups, seed=0, generate=says)  # type: ignore[arg-type]
    assert len(says.calls) == 1 and [ask.request.sample_id for ask in says.calls[0]] == [
        SCENES[i].id for i in (0, 0, 1)
    ]
    assert [m.scores for m in made] == [(0.0, -1.0), (-1.0,)]


def test_a_bonus_rewards_what_is_confirmed_and_a_share_forgets_length() -> None:
    texts = ("I see a red circle.", "I see a red circle, a blue star, an old cat and a big dog.")
    assert judged(sees("red", "blue"), *texts, bonus=0.5).scores == (0.5, -1.0)
    assert judged(sees("red", "blue"), *texts, score="share").scores == (0.0, -0.5)


def test_an_answer_that_claims_nothing_or_gets_no_readable_reply_stands_in_no_pair() -> None:
    says = Says(lambda role, prompt: "Perhaps." if "star" in prompt else "No.")
    texts = ("Nothing much.", "I see a blue star.", "I see a red cat.", "I see a red cat and a red dog.")
    made = judged(says, *texts)
    assert [isnan(score) for score in made.scores] == [True, True, False, False] and made.counts["unscored"] == 2
    pair = BestAgainstRest().select(SAMPLE, group(*texts), made)
    assert isinstance(pair, PreferencePair) and (pair.chosen.text, pair.rejected[0].text) == (texts[2], texts[3])


def test_a_model_lists_the_claims_turns_them_into_questions_and_checks_them() -> None:
    listed_claims = "### Claims\n- A dog lies there.\n- It is no cat."
    replies = {"claims": listed_claims, "questions": "1. Does a dog lie there?\n2. Is it no cat?"}
    says = Says(lambda role, prompt: replies.get(role, "Yes, it does." if "dog" in prompt else "No."))
    made = judged(says, "A dog lies there, which is no cat.", prompt="claims_full")
    assert [[ask.role for ask in call] for call in says.calls] == [["claims"], ["questions"], ["verdict", "verdict"]]
    assert (
        SAMPLE.question in says.calls[0][0].request.prompt and "- A dog lies there." in says.calls[1][0].request.prompt
    )
    assert says.calls[2][0].request.prompt == "Does a dog lie there? Answer yes or no." and made.scores == (-1.0,)
    assert [claim["claim"] for claim in made.each[0]["claims"]] == ["A dog lies there.", "It is no cat."]


def test_questions_that_do_not_match_the_claims_leave_an_answer_unscored() -> None:
    says = Says(lambda role, prompt: "- One.\n- Two." if role == "claims" else "Only one?")
    assert isnan(judged(says, "One and two.", prompt="claims_full").scores[0])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("check: Is {claim} there?", "either pattern or split"),
        ("check: Is it there?\npattern: a b", "check lacks {claim} or {question}"),
        ("check: '{question}'\npattern: a b", "no ask that makes one"),
        ("check: '{claim}?'\npattern: '(a'", "pattern is no regular expression"),
        (
            "check: '{claim}?'\npattern: a\ncolour: red",
            "has colour; a claims prompt is made of check, pattern, split, ask",
        ),
        ("check: 3\npattern: a", "check is 3; it must be a text"),
    ],
)
def test_a_prompt_file_that_cannot_work_is_refused_in_a_sentence(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=fault):
        load_claim_prompt(str(tmp_path / "mine.yaml"))


def test_lists_are_read_with_and_without_bullets() -> None:
    assert listed("* one\n• two\n(3) three\n\n   four  five\n-") == ["one", "two", "three", "four five"]


# -- with the built-in model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_policy({"path": "assets/tiny_llava"}, {"r": 4}, device="cpu", seed=0)


def module(cache: Path, judge: Claims, policy: Any) -> PreferenceDataModule:
    made = PreferenceDataModule(
        SCENES, Sampled(3, temperature=1.0, max_new_tokens=32, greedy=False, top_p=0.9), judge, BestAgainstRest(),
        cache_dir=cache, trainer=typed.trainer(batch_size=4), generation=typed.generation(batch_size=32),
    )  # fmt: skip
    made.build_pairs(policy)
    return made


def test_probabilities_agree_with_words_and_are_found_again(tmp_path: Path, policy: Any) -> None:
    by_words = module(tmp_path, part(Claims, "claims_short", max_new_tokens=4), policy)
    likely = part(Claims, "claims_short", by="probability", max_new_tokens=4, batch_size=5, cache_dir=tmp_path)
    by_probability = module(tmp_path, likely, policy)
    assert by_words.report is not None and by_probability.report is not None
    assert by_words.report.judge == by_probability.report.judge and by_words.report.judge["denied"] > 0
    assert by_words.pair_ids == by_probability.pair_ids and by_words.report.key != by_probability.report.key
    kept = len(KeyedStore(tmp_path / "first_words"))
    again = module(tmp_path, likely, policy)
    assert len(KeyedStore(tmp_path / "first_words")) == kept > 0 and again.report.key == by_probability.report.key  # type: ignore[union-attr]


def test_first_words_have_the_probabilities_of_the_model_whatever_the_batch(policy: Any) -> None:
    import torch

    asks = [
        part(Claims, "claims_short")._ask(sample, "verdict", "Is there a red circle in the image?") for sample in SCENES
    ]
    requests = [ask.request for ask in asks]
    found = first_word_probabilities(policy, requests, ["Yes", "No", "Yes."], why={}, batch_size=4)
    alone = [first_word_probabilities(policy, [request], ["Yes", "No"], why={})[0] for request in requests]
    torch.testing.assert_close(torch.tensor(found)[:, :2], torch.tensor(alone))
    assert all(row[2] == 0 and 0.9 < sum(row) <= 1 for row in found)  # "Yes." begins as "Yes" does
    prompt = policy.encoder.encode_conversation(requests[0].conversation)
    with torch.no_grad():
        logits = policy.model(input_ids=prompt.input_ids[None], **prompt.vision).logits[0, -1]
    yes = policy.encoder.chat.encode_response("Yes")[0]
    assert found[0][0] == pytest.approx(float(logits.softmax(-1)[yes]), rel=1e-4)
