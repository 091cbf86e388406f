"""A small OpenAI-compatible server for the tests: real HTTP, answers by a function of the prompt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[
    [dict[str, Any], int], "str | int | bytes"
]  # (request, how often it came) → text, HTTP status, or raw body


class JudgeServer(ThreadingHTTPServer):
    """`requests` holds every body received, `keys` the authorisation headers."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.requests, self.keys, self.lock = answer, [], [], threading.Lock()  # type: ignore[var-annotated]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            before = sum(seen["messages"][0]["content"] == prompt for seen in self.server.requests)
            self.server.requests.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
        said = self.server.answer(body, before)
        status = said if isinstance(said, int) else 200
        reply = (
            {"choices": [{"message": {"role": "assistant", "content": said}}]}
            if isinstance(said, str)
            else {"error": "busy"}
        )
        raw = said if isinstance(said, bytes) else json.dumps(reply).encode()
        self.send_response(status if self.path == "/v1/chat/completions" else 404)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def judging(answer: Answer) -> Iterator[JudgeServer]:
    server = JudgeServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
