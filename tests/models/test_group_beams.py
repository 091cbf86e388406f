"""Group beams: penalties and log-probs by hand on written-down logits; on real models, teacher forcing and batches agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from parallax.models.search.group_beams import GroupBeams, Sentence, Start
from parallax.records import ViewSpec
from tests.models.examples import QUESTIONS, Picture
from tests.models.scripted import WORDS, Rule, ScriptedPolicy


def say(
    rule: Rule, *, groups: int = 3, penalty: float = 3.0, limit: int = 8, said: tuple[int, ...] = ()
) -> list[Sentence]:
    policy: Any = ScriptedPolicy(rule)
    start = Start(policy.encoder.encode_prompt(None, "q", None), said, limit)
    (made,) = GroupBeams(policy, groups=groups, penalty=penalty).next_sentences([start])
    return made


def words(sentence: Sentence) -> str:
    return " ".join(WORDS[token] for token in sentence.token_ids)


def once(first: dict[str, float]) -> Rule:
    """These logits for the first word, then a point."""
    return lambda said: first if not said else {".": 5.0}


def one_after(*script: str) -> Rule:
    """One word after the other."""
    return lambda said: {script[min(len(said), len(script) - 1)]: 5.0}


def test_each_group_sees_the_logits_less_a_penalty_per_earlier_group_with_the_same_token() -> None:
    """ant 10, bee 8, cat 5. Second group: ant 7, bee 8. Third: ant 7, bee 5. Fourth: ant 4, bee 5, cat 5, the first of equals."""
    made = say(once({"ant": 10.0, "bee": 8.0, "cat": 5.0}), groups=4)
    assert [words(sentence) for sentence in made] == ["ant .", "bee .", "ant .", "bee ."]
    assert [words(s) for s in say(once({"ant": 10.0, "bee": 8.0, "cat": 5.0}), groups=4, penalty=0.0)] == ["ant ."] * 4
    assert [words(s) for s in say(once({"ant": 10.0, "bee": 8.0, "cat": 5.0}), groups=3, penalty=9.0)] == [
        "ant .",
        "bee .",
        "cat .",
    ]


def test_log_probs_are_the_models_own_without_the_penalty() -> None:
    first, second, _ = say(once({"ant": 10.0, "bee": 8.0, "cat": 5.0}))
    others = (len(WORDS) - 3) * math.exp(-20)
    total = math.log(math.exp(10) + math.exp(8) + math.exp(5) + others)
    assert first.log_probs[0] == pytest.approx(10 - total, abs=1e-5)
    assert second.log_probs[0] == pytest.approx(8 - total, abs=1e-5)
    assert first.log_prob == pytest.approx(sum(first.log_probs))


def test_only_groups_that_still_speak_push_later_ones_away() -> None:
    """Group 1 ends after `ant .`; group 2 wants `.` at step 3 and group 1 is no longer there to take it."""
    rules: dict[tuple[str, ...], dict[str, float]] = {
        (): {"ant": 5.0, "bee": 4.0}, ("ant",): {".": 5.0}, ("bee",): {"cat": 5.0}, ("bee", "cat"): {".": 5.0},
    }  # fmt: skip
    made = say(lambda said: rules[said], groups=2)
    assert [words(sentence) for sentence in made] == ["ant .", "bee cat ."]


def test_the_end_of_the_text_ends_a_sentence_and_nothing_is_said_after_it() -> None:
    made = say(lambda said: {"</s>": 9.0, "ant": 8.0} if not said else {".": 5.0}, groups=2)
    assert [words(sentence) for sentence in made] == ["</s>", "ant ."]
    assert [sentence.ended for sentence in made] == [True, False]
    assert not any(sentence.cut for sentence in made)


def test_a_point_after_a_digit_waits_for_what_comes_next() -> None:
    assert words(say(one_after("ant", "3", ".", "3", "bee", "!"), groups=1)[0]) == "ant 3 . 3 bee !"
    assert words(say(one_after("ant", "3", ".", "bee", "!"), groups=1)[0]) == "ant 3 ."


def test_an_abbreviation_goes_on_and_a_limit_cuts() -> None:
    assert words(say(one_after("Mr.", "ant", "."), groups=1)[0]) == "Mr. ant ."
    (cut,) = say(lambda said: {"ant": 5.0}, groups=1, limit=4)
    assert words(cut) == "ant ant ant ant" and cut.cut and not cut.ended


def starts(policy: Any, count: int = 4) -> list[Start]:
    prompts = [
        policy.encoder.encode_prompt(Picture(i).load(), QUESTIONS[i % len(QUESTIONS)], ViewSpec()) for i in range(count)
    ]
    return [Start(prompt, tuple(range(40, 40 + 3 * place)), 6) for place, prompt in enumerate(prompts)]


def test_batches_of_many_images_say_what_each_says_alone(family: str, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    together = GroupBeams(policy, groups=3, batch_size=64).next_sentences(starts(policy))
    alone = GroupBeams(policy, groups=3, batch_size=1)
    for start, made in zip(starts(policy), together, strict=True):
        (own,) = alone.next_sentences([start])
        assert [sentence.token_ids for sentence in own] == [sentence.token_ids for sentence in made]
        for one, other in zip(own, made, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert len({sentence.token_ids for made in together for sentence in made}) > 8


def test_log_probs_are_those_of_teacher_forcing(family: str, make_policy: Any) -> None:
    policy = make_policy(family, learned=True)
    for start, made in zip(starts(policy), GroupBeams(policy, groups=3).next_sentences(starts(policy)), strict=True):
        responses = [torch.tensor([*start.said, *sentence.token_ids]) for sentence in made]
        with torch.no_grad():
            scored = policy.score(policy.encoder.collate([(start.prompt, responses)]))
        for k, sentence in enumerate(made):
            forced = scored.per_token[0, k, len(start.said) : len(start.said) + len(sentence.token_ids)]
            assert forced.tolist() == pytest.approx(sentence.log_probs, abs=1e-4)


def test_the_first_group_is_the_policys_own_greedy_answer(make_policy: Any) -> None:
    from tests.models.examples import ragged

    policy = make_policy("llava", learned=True)
    requests = ragged(4)
    for request, answer in zip(requests, policy.generate(requests), strict=True):
        prompt = policy.encoder.encode_prompt(request.image.load(), request.prompt, request.view)
        limit = request.decoding.max_new_tokens
        (made,) = GroupBeams(policy, groups=2).next_sentences([Start(prompt, (), limit)])
        assert made[0].token_ids == answer.token_ids[: len(made[0].token_ids)]


def test_a_prompt_is_read_once_however_often_it_is_gone_on_from() -> None:
    policy: Any = ScriptedPolicy(one_after("ant", ".", "bee", "."))
    beams, prompt = GroupBeams(policy, groups=2), policy.encoder.encode_prompt(None, "q", None)
    (first,) = beams.next_sentences([Start(prompt, (), 8)])
    read = policy.model.calls
    assert beams.next_sentences([Start(prompt, (), 8)]) == [first]
    assert policy.model.calls == 2 * read - 1
    (second,) = beams.next_sentences([Start(prompt, first[0].token_ids, 8)])
    assert [words(first[0]), words(second[0])] == ["ant .", "bee ."]
    beams.next_sentences([Start(policy.encoder.encode_prompt(None, "q", None), (), 8)])
    assert len(beams.prompts._known) == 1  # the first prompt is forgotten
