"""A server on this machine for one test: answers in JSON, and bears clients that leave without a word."""

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Answers GET with an empty object; what else there is to answer, a subclass says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.say({})

    def body(self) -> bytes:
        """What was sent, unpacked."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def say(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):  # the client may have gone
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*address)


@contextmanager
def listening(handler: type[JsonHandler]) -> Iterator[str]:
    """The address of a running server, such as http://127.0.0.1:8080."""
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
