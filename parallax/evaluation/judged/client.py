"""A judge behind an OpenAI-compatible address: asked many questions at once, patiently, and never twice the same.

A verdict is kept under all that determined it (model, messages, sampling), so a second evaluation of the same answers asks
nothing. What cannot be had (no answer after all retries, or one that cannot be read) is a failure with its reason: it is counted
and left out, never averaged in as a zero.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from parallax.models.http_client import HttpClient, ServiceError
from parallax.records import fingerprint
from parallax.records.plain_text import quoted, without_surrogates
from parallax.records.shard_folder import KeyedStore
from parallax.settings.ranges import Count, Name, NotNegative, Positive

log = logging.getLogger(__name__)

Read = Callable[[str], Any]  # the judge's text → a verdict; None when it cannot be read
WARMER = 0.5  # added to the temperature each time an answer could not be read, as MM-Vet's script does
SHARD = 64  # verdicts kept at a time
MOST_BYTES = 4 << 20  # of a verdict's reply


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """One question to the judge and how its answer is read."""

    prompt: str
    read: Read


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said. `value` is None for a failure, and `failure` then says why."""

    value: Any
    text: str = ""
    failure: str | None = None


class JudgeClient:
    """Asks `<url>/chat/completions`.

    Args:
        url: of the API, such as http://localhost:8000/v1; None is an error as soon as something is asked.
        model: the judge's name there.
        api_key_env: the environment variable that holds the key; where it is not set, no key is sent.
        temperature: of the judge's sampling, 0 is greedy.
        max_tokens: that a verdict may have.
        retries: further tries after a failed one, of a request as of an answer that cannot be read.
        timeout: seconds for one request, from connecting to the last byte of the answer.
        concurrency: requests under way at once.
        backoff: seconds before the first retry of a request; each further wait is about twice as long, at most a minute.
        cache_dir: verdicts are kept in `verdicts/` below it; None keeps nothing.
    """

    def __init__(
        self,
        url: str | None,
        model: str,
        api_key_env: Name,
        temperature: Annotated[float, Interval(ge=0, le=2)] = 0.0,
        *,
        max_tokens: Count,
        retries: Annotated[int, Interval(ge=0, le=100)],
        timeout: Positive,
        concurrency: Annotated[int, Interval(ge=1, le=1000)],
        backoff: NotNegative,
        cache_dir: str | None = None,
    ) -> None:
        self.url, self.model, self.concurrency = url, model, concurrency
        self.temperature, self.max_tokens, self.retries = temperature, max_tokens, retries
        self.reused = 0  # verdicts found
        self._service = HttpClient(
            "the judge", str(url), setting="evaluation.judge.url", key_variable=api_key_env, timeout=timeout, retries=retries,
            backoff=backoff, most_bytes=MOST_BYTES,
        )  # fmt: skip
        self._store = KeyedStore(Path(cache_dir) / "verdicts") if cache_dir is not None else None

    @property
    def asked(self) -> int:
        """Requests sent."""
        return self._service.tries

    def verdicts(self, asks: Sequence[JudgePrompt]) -> list[Verdict]:
        """A verdict per question, in order.

        Raises:
            ValueError: there is no address.
            ConnectionError: every single question failed for want of a connection; the judge is not there.
        """
        if not asks:
            return []
        if not self.url:
            raise ValueError(
                "a judge is to be asked and evaluation.judge.url is not set; give the address of an OpenAI-like API"
            )
        keys = [self._key(ask.prompt) for ask in asks]
        kept = self._store.get_many(keys) if self._store is not None else {}
        found: dict[str, Verdict] = {}
        for key, ask in zip(keys, asks, strict=True):
            if key in kept and (value := ask.read(kept[key])) is not None:
                found[key] = Verdict(value, kept[key])
        self.reused += len(found)
        new = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in found}
        for start in range(0, len(new), SHARD):
            some = list(new)[start : start + SHARD]
            with ThreadPoolExecutor(self.concurrency) as pool:
                made = dict(zip(some, pool.map(self._ask, [new[key] for key in some]), strict=True))
            found |= made
            if self._store is not None:
                self._store.add({key: verdict.text for key, verdict in made.items() if verdict.failure is None})
        failures = [verdict.failure for verdict in found.values() if verdict.failure is not None]
        if failures:
            log.warning(
                "%d of %d verdicts failed and are left out; the first: %s", len(failures), len(asks), failures[0]
            )
        if len(failures) == len(found) and all(failure.startswith("no connection") for failure in failures):
            raise ConnectionError(f"no verdict could be had from {self.url}: {failures[0]}")
        return [found[key] for key in keys]

    def _ask(self, ask: JudgePrompt) -> Verdict:
        text = ""
        for attempt in range(self.retries + 1):
            try:
                text = self._request(ask.prompt, self.temperature + WARMER * attempt)
            except ServiceError as failed:
                return Verdict(None, failure=str(failed))
            if (value := ask.read(text)) is not None:
                return Verdict(value, text)
        return Verdict(
            None, text, f"the judge's answer could not be read after {self.retries + 1} tries: '{quoted(text)}'"
        )

    def _request(self, prompt: str, temperature: float) -> str:
        """The judge's text. Waits and tries again when the server is busy or away. Raises ServiceError."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": min(temperature, 2.0),
            "max_tokens": self.max_tokens,
        }
        text: str = self._service.post("chat/completions", body, _content)
        return text

    def _key(self, prompt: str) -> str:
        """What determines a verdict. The address is not part of it: the model's name is."""
        return fingerprint(["verdict", self.model, prompt, self.temperature, self.max_tokens])


def _content(reply: Mapping[str, Any]) -> str:
    """The text of a chat completion. Raises ValueError for anything else: a list's digits are no verdict."""
    content = reply["choices"][0]["message"]["content"]
    if content is not None and not isinstance(content, str):
        raise ValueError(f"content is {type(content).__name__} and no text")
    return without_surrogates(content or "")
