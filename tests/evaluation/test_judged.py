"""The judge behind an address: retries, cached verdicts, failures counted and left out. Over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallax.evaluation.judged.client import JudgeClient, JudgePrompt
from parallax.evaluation.judged.consistency import ConsistencySuite
from parallax.evaluation.judged.gradings import labels, number_between, rating, sentences_of, two_grades
from tests.evaluation.judge_server import judging
from tests.evaluation.pictures import sample
from tests.evaluation.test_official_files import metrics, suite_of
from tests.parts import part


def number(text: str) -> float | None:
    return number_between(text, 0, 10)


def client(url: str, **more: Any) -> JudgeClient:
    return part(JudgeClient, url, "judge-1", **{"backoff": 0.001, "retries": 2, "timeout": 5, **more})


def test_a_busy_judge_is_asked_again_and_its_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with judging(lambda body, before: (429, 503, "7")[min(before, 2)]) as server:
        (verdict,) = client(server.url, api_key_env="MY_KEY").verdicts([JudgePrompt("how good?", number)])
    assert verdict.value == 7 and verdict.failure is None
    assert len(server.requests) == 3 and set(server.keys) == {"Bearer secret"}
    assert {key: server.requests[0][key] for key in ("model", "temperature", "max_tokens")} == {
        "model": "judge-1", "temperature": 0.0, "max_tokens": 512,
    }  # fmt: skip


def test_a_verdict_that_cannot_be_read_is_asked_for_again_a_little_warmer() -> None:
    with judging(lambda body, before: "no idea" if before == 0 else "4") as server:
        (verdict,) = client(server.url).verdicts([JudgePrompt("how good?", number)])
    assert verdict.value == 4 and [body["temperature"] for body in server.requests] == [0.0, 0.5]


def test_failures_say_why_and_do_not_take_the_others_along() -> None:
    def answer(body: dict[str, Any], before: int) -> str | int | bytes:
        prompt = body["messages"][0]["content"]
        return {"refused": 401, "garbled": b"<html>", "mumbled": "hm", "fine": "9"}[prompt]

    with judging(answer) as server:
        said = client(server.url).verdicts(
            [JudgePrompt(word, number) for word in ("refused", "garbled", "mumbled", "fine")]
        )
    assert [verdict.value for verdict in said] == [None, None, None, 9]
    reasons = ["HTTP 401", "not of the OpenAI form", "could not be read after 3 tries: 'hm'"]
    assert all(reason in str(verdict.failure) for reason, verdict in zip(reasons, said[:3], strict=True))
    asked = [body["messages"][0]["content"] for body in server.requests]
    assert asked.count("refused") == 1 and asked.count("garbled") == 3  # what will not change is not tried again


def test_verdicts_are_kept_and_failures_are_not(tmp_path: Path) -> None:
    asks = [JudgePrompt("good", number), JudgePrompt("bad", number)]
    with judging(lambda body, before: "8" if body["messages"][0]["content"] == "good" else "hm") as server:
        first = client(server.url, cache_dir=str(tmp_path))
        assert [v.value for v in first.verdicts(asks)] == [8, None]
        again = client(server.url, cache_dir=str(tmp_path))
        assert [v.value for v in again.verdicts(asks)] == [8, None]
        assert again.reused == 1 and again.asked == 3  # only the one that failed was asked again
        other = client(server.url, cache_dir=str(tmp_path), temperature=0.7)
        other.verdicts(asks[:1])
        assert other.reused == 0, "another temperature is another verdict"


def test_a_judge_that_is_not_there_stops_the_evaluation() -> None:
    with pytest.raises(ConnectionError, match="no verdict could be had from http://127.0.0.1:9/v1"):
        client("http://127.0.0.1:9/v1", retries=0).verdicts([JudgePrompt("anyone?", number)])
    with pytest.raises(ValueError, match="judge.url"):
        part(JudgeClient, None, "judge").verdicts([JudgePrompt("anyone?", number)])


def judged(choice: str, compose_config: Callable[..., Any], url: str) -> Any:
    more = (f"evaluation.judge.url={url}", "evaluation.judge.backoff=0.001", "evaluation.judge.retries=0")
    return suite_of(choice, compose_config, *more)


def test_mm_vet_averages_grades_and_leaves_failures_out(compose_config: Callable[..., Any]) -> None:
    with judging(
        lambda body, before: "0.4" if "Truth: spoon OR teaspoon" in body["messages"][0]["content"] else "good!"
    ) as server:
        values = metrics(judged("mm_vet", compose_config, server.url), ["A spoon.", "one"])
    assert values["mmvet_total"] == 0.4 and values["mmvet_total:spat"] == 0.4  # a zero averaged in would give 0.2
    assert values["mm_vet_judge_failures"] == 0.5
    assert (
        "Answer: A spoon."
        in server.requests[0]["messages"][0]["content"] + server.requests[1]["messages"][0]["content"]
    )


def test_llava_bench_is_the_ratio_of_two_sums_of_grades(compose_config: Callable[..., Any]) -> None:
    with judging(
        lambda body, before: "8 6\nfine" if "What animal" in body["messages"][0]["content"] else "10 3"
    ) as server:
        values = metrics(judged("llava_bench", compose_config, server.url), ["A cat.", "A dog."])
    assert values["llava_bench_relative"] == pytest.approx(9 / 18)
    assert values["llava_bench_relative:conv"] == pytest.approx(6 / 8)
    assert "A tabby cat looks straight" in server.requests[0]["messages"][0]["content"]


def test_mm_hal_rates_from_0_to_6(compose_config: Callable[..., Any]) -> None:
    with judging(lambda body, before: "It made up the collar.\nRating: 2") as server:
        values = metrics(judged("mm_hal", compose_config, server.url), ["Blue, with a collar."])
    assert values["mmhal_score"] == 2 and values["mmhal_hallucination_rate"] == 1.0
    assert "Cat, Whisker" in server.requests[0]["messages"][0]["content"]


def test_shr_counts_sentences_the_judge_could_decide_on(compose_config: Callable[..., Any]) -> None:
    with judging(lambda body, before: "1: correct\n2: hallucination\n3: cannot judge") as server:
        values = metrics(
            judged("shr", compose_config, server.url), ["A cat. It wears a hat. It purrs. It wears a hat."]
        )
    assert values["shr"] == pytest.approx(1 / 2)
    prompt = server.requests[0]["messages"][0]["content"]
    assert "[0.00, 0.00, 0.50, 1.00]: a tabby cat\nThe cat has whiskers." in prompt and "3. It purrs." in prompt


def test_consistency_asks_twice_about_each_sampled_answer() -> None:
    def answer(body: dict[str, Any], before: int) -> str:
        return "3" if body["messages"][0]["content"].startswith("A:") else "9"

    with judging(answer) as server:
        suite = part(
            ConsistencySuite,
            [sample("one")],
            client(server.url),
            [0.5, 0.9],
            "Q: {question} {answer}",
            "A: {reference} {answer}",
        )
        assert [suite.decoding_of(s).temperature for s in suite.samples] == [0.0, 0.5, 0.9]
        values = metrics(suite, ["greedy", "warm", "hot"])
    assert values["q_consistency_score"] == 9 and values["a_consistency_score:0.9"] == 3
    assert values["consistency_judge_failures"] == 0.0
    assert sorted(body["messages"][0]["content"] for body in server.requests) == [
        "A: greedy hot", "A: greedy warm", "Q: What is there? hot", "Q: What is there? warm",
    ]  # fmt: skip


def test_verdicts_are_read_strictly() -> None:
    assert number_between("Grade: 0.7", 0, 1) == 0.7 and number_between("7", 0, 1) is None
    assert two_grades("8 7.5\nThe first …") == (8, 7.5) and two_grades("8 11") is None and two_grades("") is None
    assert rating("Rating: 4") == 4 and rating("**Rating**: 3") == 3
    assert rating("Rating: 7") is None and rating("rating 3 or rating 4") is None and rating("3") is None
    assert labels("1: correct\n2. Hallucination", 2) == ["correct", "hallucination"]
    assert labels("1: correct", 2) is None and labels("1: correct\n1: correct", 2) is None and labels("", 0) == []
    assert sentences_of("A cat.  It sits!\nOn a mat") == ["A cat.", "It sits!", "On a mat"]
