"""One way to ask a service on the network (a judge, a server that generates): JSON there, JSON back, within bounds.

What comes from outside may be slow, endless, broken or hostile. Every try has a deadline as a whole (a server that sends a byte
now and then does not hold it), bodies have a limit, redirects are not followed (they would take the key along), and whatever goes
wrong is one `ServiceError` whose sentence names the host, what came, and what to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from parallax.records.plain_text import quoted

AGAIN = (408, 409, 425, 429)  # HTTP statuses worth another try, beside 5xx
LONGEST_WAIT = 60.0  # seconds between two tries
MOST_BYTES = 32 << 20  # of a reply; 64,000 tokens with their ids are a tenth of it
MOST_OF_AN_ERROR = 16 << 10  # bytes of a reply that is an error

Checked = Callable[
    [Any], Any
]  # a reply's JSON → what it means; raises ValueError with words when it is not of the form


class ServiceError(RuntimeError):
    """A service did not give what was asked for. `status`: HTTP status, or None when no whole reply came."""

    def __init__(self, sentence: str, status: int | None = None, said: str = "") -> None:
        super().__init__(sentence)
        self.status, self.said = status, said


class HttpClient:
    """Asks a service below one address.

    Args:
        what: how the service is called in sentences, such as "the judge".
        url: its address, such as http://localhost:8000/v1.
        setting: the configuration's key of the address, for advice.
        key_variable: environment variable that holds the key; where it is not set, no key is sent.
        key: the key itself, where no variable holds it.
        form: what a reply that is none of the service's is said not to be.
        timeout: seconds for one try, from connecting to the last byte.
        retries: further tries after a failed one.
        backoff: seconds before the first further try; each next wait is twice as long, at most a minute, and a random part
            (up to half) shorter, so that many clients do not come back at once.
        most_bytes: of a reply.
    """

    def __init__(
        self,
        what: str,
        url: str,
        *,
        setting: str,
        key_variable: str = "OPENAI_API_KEY",
        key: str | None = None,
        form: str = "OpenAI",
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 1.0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.what, self.url, self.setting, self.key_variable = what, url.rstrip("/"), setting, key_variable
        self.key, self.form = key, form
        self.timeout, self.retries, self.backoff, self.most_bytes = timeout, retries, backoff, most_bytes
        self.tries = 0  # requests sent
        self.host = host_of(self.url)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0  # whose thread runs the loop: a forked child needs its own
        self._client: Any = None

    def get(self, path: str, checked: Checked) -> Any:
        """The reply to GET `<url>/<path>`, as `checked` gives it back. Raises ServiceError."""
        return self._asked("GET", path, None, checked, self.retries)

    def post(
        self, path: str, body: Mapping[str, Any], checked: Checked | None = None, *, retries: int | None = None
    ) -> Any:
        """The reply to POST `<url>/<path>` with a JSON body, as `checked` gives it back; None without `checked`.

        Raises ServiceError.
        """
        return self._asked("POST", path, body, checked, self.retries if retries is None else retries)

    def _asked(self, method: str, path: str, body: object, checked: Checked | None, retries: int) -> Any:
        content = None if body is None else json.dumps(body).encode()
        for attempt in range(retries + 1):
            with self._lock:
                self.tries += 1
            try:
                status, headers, data = self._run(self._try(method, path, content))
                return self._read(status, headers, data, checked)
            except _Again as failed:
                if attempt == retries:
                    tries = f" (tried {retries + 1} times)" if retries else ""
                    raise ServiceError(f"{failed}{tries}", failed.status, failed.said) from failed
                time.sleep(self._wait(attempt, failed.wait))
        raise AssertionError("unreachable")

    def _wait(self, attempt: int, asked_for: float | None) -> float:
        wait = self.backoff * 2**attempt * random.uniform(0.5, 1.0)
        return min(LONGEST_WAIT, max(wait, asked_for or 0.0))

    def _read(self, status: int, headers: Mapping[str, str], data: bytes, checked: Checked | None) -> Any:
        there = f"{self.what} at {self.host}"
        if 300 <= status < 400:
            where = host_of(headers.get("location", "nowhere"))
            raise ServiceError(
                f"{there} redirects to {where}, and requests are not sent on with their key; set {self.setting} to the final "
                "address if you trust it",
                status,
            )
        if status >= 400:
            said = quoted(data.decode("utf-8", "replace")) or "nothing"
            sentence = f"{there} answered with HTTP {status}: {said}"
            if status in AGAIN or status >= 500:
                raise _Again(sentence, status, said, _seconds(headers.get("retry-after")))
            raise ServiceError(sentence, status, said)
        if checked is None:
            return None
        try:
            return checked(json.loads(data))
        except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError) as error:
            why = f"missing {error}" if isinstance(error, KeyError) else quoted(error) or type(error).__name__
            raise _Again(
                f"{there} gave a reply that is not of the {self.form} form ({why}); see that {self.setting} names such an API",
                status,
            ) from error

    async def _try(self, method: str, path: str, content: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one try. Raises `_Again` when no whole reply came in time."""
        import httpx

        key = self.key or os.environ.get(self.key_variable)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        there = f"no connection to {self.what} at {self.host}"
        try:
            async with (
                asyncio.timeout(self.timeout),
                self._client.stream(method, f"{self.url}/{path}", content=content, headers=headers) as reply,
            ):
                if reply.headers.get("content-encoding", "identity") != "identity":
                    raise _Again(f"{self.what} at {self.host} sent a compressed reply that was not asked for")
                most = self.most_bytes if reply.status_code < 400 else MOST_OF_AN_ERROR
                data = bytearray()
                async for part in reply.aiter_raw():
                    data += part
                    if len(data) > most:
                        if reply.status_code >= 400:
                            break
                        raise _Again(f"{self.what} at {self.host} sent more than {most >> 20} MiB for one reply")
                return reply.status_code, reply.headers, bytes(data[:most])
        except TimeoutError as error:
            raise _Again(
                f"{there}: no whole reply within {self.timeout:g} s; see whether it runs, or allow more time"
            ) from error
        except (httpx.InvalidURL, ValueError, OverflowError, ExceptionGroup) as error:
            raise ServiceError(f"{self.setting}={quoted(self.url)} is no address ({quoted(error)})") from error
        except (httpx.HTTPError, OSError) as error:
            why = quoted(error) or type(error).__name__
            raise _Again(f"{there} ({why}); see that it runs and that {self.setting} is its address") from error

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine on this client's own loop, whose thread all callers share."""
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                import httpx

                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, daemon=True, name=f"asks {self.what}").start()
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
                self._client = httpx.AsyncClient(timeout=None, limits=limits, follow_redirects=False)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Again(Exception):
    """A try that failed and may be made again."""

    def __init__(self, sentence: str, status: int | None = None, said: str = "", wait: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.said, self.wait = status, said, wait


def host_of(url: str) -> str:
    """Host and port of an address, without a user's name and password; the whole of what is no address."""
    try:
        return quoted(urlsplit(url).netloc.rpartition("@")[2] or url)
    except ValueError:
        return quoted(url)


def _seconds(header: str | None) -> float | None:
    """`Retry-After` in seconds, where it is a number of them."""
    return float(header) if header is not None and header.strip().isdigit() and len(header) < 6 else None
