"""A service may say anything, at any pace: the answer is JSON of the right form, or one sentence, in bounded time and memory."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx  # noqa: F401  (its import is no part of the time that is measured)
import pytest

from parallax.evaluation.judged.client import JudgeClient, JudgePrompt
from parallax.evaluation.judged.gradings import number_between
from parallax.models.http_client import HttpClient, ServiceError
from tests.faults import Injected
from tests.models.wire import BROKEN, SAID, whole, wired
from tests.parts import part


def client(url: str, **more: Any) -> HttpClient:
    settings = {
        "setting": "evaluation.judge.url",
        "timeout": 0.5,
        "retries": 0,
        "backoff": 0.001,
        "most_bytes": 1 << 22,
    }
    return HttpClient("the judge", url, **{**settings, **more})


def number(text: str) -> float | None:
    return number_between(text, 0, 10)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_a_failure_in_a_sentence_and_the_others_are_kept(
    kind: str, tmp_path: Any, injected: Injected
) -> None:
    good, began = whole(SAID), time.monotonic()
    with wired(good, BROKEN[kind]) as wire:
        judge = part(JudgeClient,
            wire.url, "judge", retries=0, timeout=0.6, backoff=0.001, concurrency=1, cache_dir=str(tmp_path)
        )  # fmt: skip
        first, second = judge.verdicts([JudgePrompt("one", number), JudgePrompt("two", number)])
    assert first.value == 7 and second.value is None, "the list's digits were read"
    assert time.monotonic() - began < 20
    said = str(second.failure)
    assert "127.0.0.1" in said and len(said) < 700 and "\n" not in said and "\x1b" not in said
    again = part(JudgeClient, "http://127.0.0.1:9/v1", "judge", cache_dir=str(tmp_path))
    assert again.verdicts([JudgePrompt("one", number)])[0].value == 7 and again.asked == 0
    injected(
        "attack: broken, endless or misshapen answer of a judge",
        told=1,
        says="a failure in a sentence; other verdicts are kept",
    )


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
)
def test_the_key_goes_nowhere_else(status: str, monkeypatch: pytest.MonkeyPatch, injected: Injected) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with wired(whole(SAID)) as other, wired(whole(b"", status, f"Location: {other.url}/chat/completions")) as first:
        with pytest.raises(
            ServiceError, match="redirects to 127.0.0.1:.* set evaluation.judge.url to the final address"
        ):
            client(first.url, key_variable="MY_KEY").post("chat/completions", {}, json.dumps)
        assert b"Bearer secret" in first.asked[0] and other.asked == []
    injected("attack: redirect to another host", told=1, says="not followed, and the key goes nowhere")


def test_busy_services_are_asked_again_after_the_time_they_ask_for() -> None:
    with wired(whole(b"", "503 Busy", "Retry-After: 1"), whole(b"", "429 Slow down"), whole(SAID)) as wire:
        began = time.monotonic()
        assert client(wire.url, retries=2).post("x", {}, lambda reply: reply["choices"][0]["message"]["content"]) == "7"
        assert len(wire.asked) == 3 and 1 <= time.monotonic() - began < 5


def test_waits_are_not_the_same_for_all() -> None:
    waits = {client("http://x", backoff=1.0)._wait(3, None) for _ in range(20)}
    assert len(waits) > 15 and all(4 <= wait <= 8 for wait in waits) and client("http://x")._wait(40, None) <= 60


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a b/v1", "http://127.0.0.1:99999/v1", "nonsense"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ServiceError, match="evaluation.judge.url"):
        client(url).get("models", json.dumps)


def test_what_a_server_says_reaches_the_terminal_as_text() -> None:
    with wired(whole(b"\x1b[2J\x1b]0;owned\x07", "400 Bad")) as wire, pytest.raises(ServiceError) as caught:
        client(wire.url).get("models", json.dumps)
    assert "\x1b" not in str(caught.value) and r"\x1b[2J" in str(caught.value)
