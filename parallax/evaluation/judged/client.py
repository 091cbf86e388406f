"""A judge behind an OpenAI-compatible address: asked many questions at once, patiently, and never twice the same.

A verdict is kept under all that determined it (model, messages, sampling), so a second evaluation of the same answers asks
nothing. What cannot be had (no answer after all retries, or one that cannot be read) is a failure with its reason: it is counted
and left out, never averaged in as a zero.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from parallax.records import fingerprint
from parallax.records.keyed_store import KeyedStore
from parallax.settings.ranges import Count, Name, NotNegative, Positive

log = logging.getLogger(__name__)

Read = Callable[[str], Any]  # the judge's text → a verdict; None when it cannot be read
AGAIN = (408, 409, 425, 429)  # HTTP statuses worth another try, beside 5xx
WARMER = 0.5  # added to the temperature each time an answer could not be read, as MM-Vet's script does
SHARD = 64  # verdicts kept at a time


@dataclass(frozen=True, slots=True)
class Ask:
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
        timeout: seconds for one request.
        concurrency: requests under way at once.
        backoff: seconds before the first retry of a request; each further wait is twice as long, at most a minute.
        cache_dir: verdicts are kept in `verdicts/` below it; None keeps nothing.
    """

    def __init__(
        self,
        url: str | None,
        model: str,
        api_key_env: Name = "OPENAI_API_KEY",
        temperature: Annotated[float, Interval(ge=0, le=2)] = 0.0,
        max_tokens: Count = 512,
        retries: Annotated[int, Interval(ge=0, le=100)] = 4,
        timeout: Positive = 60.0,
        concurrency: Annotated[int, Interval(ge=1, le=1000)] = 8,
        backoff: NotNegative = 1.0,
        cache_dir: str | None = None,
    ) -> None:
        self.url, self.model, self.api_key_env = url, model, api_key_env
        self.temperature, self.max_tokens, self.retries = temperature, max_tokens, retries
        self.timeout, self.concurrency, self.backoff = timeout, concurrency, backoff
        self.asked = self.reused = 0  # requests sent, verdicts found
        self._store = KeyedStore(Path(cache_dir) / "verdicts") if cache_dir is not None else None
        self._lock = threading.Lock()

    def verdicts(self, asks: Sequence[Ask]) -> list[Verdict]:
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

    def _ask(self, ask: Ask) -> Verdict:
        text = ""
        for attempt in range(self.retries + 1):
            try:
                text = self._request(ask.prompt, self.temperature + WARMER * attempt)
            except _Failed as failed:
                return Verdict(None, failure=str(failed))
            if (value := ask.read(text)) is not None:
                return Verdict(value, text)
        return Verdict(
            None, text, f"the judge's answer could not be read after {self.retries + 1} tries: {text!r:.200}"
        )

    def _request(self, prompt: str, temperature: float) -> str:
        """The judge's text. Waits and tries again when the server is busy or away."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": min(temperature, 2.0),
            "max_tokens": self.max_tokens,
        }
        key = os.environ.get(self.api_key_env)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        why = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(60.0, self.backoff * 2 ** (attempt - 1)))
            request = urllib.request.Request(
                f"{str(self.url).rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
            )
            with self._lock:
                self.asked += 1
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return str(json.load(response)["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                why = f"the judge answered with HTTP {error.code}: {error.read(300).decode('utf-8', 'replace').strip()}"
                if error.code not in AGAIN and error.code < 500:
                    raise _Failed(why) from error
            except (KeyError, IndexError, TypeError, ValueError) as error:
                why = f"the judge's reply is not of the OpenAI form ({type(error).__name__}: {error})"
            except OSError as error:  # refused, reset, timed out, no such host
                why = f"no connection: {getattr(error, 'reason', None) or error}"
        raise _Failed(f"{why} (tried {self.retries + 1} times)")

    def _key(self, prompt: str) -> str:
        """What determines a verdict. The address is not part of it: the model's name is."""
        return fingerprint(["verdict", self.model, prompt, self.temperature, self.max_tokens])


class _Failed(Exception):
    """A request that will not succeed."""
