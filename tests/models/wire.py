"""A server of raw bytes: it says exactly what a test wants, however broken, as slowly as wanted."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Wire:
    """`replies`: what each connection gets, the last one for all that follow. A float in a reply is a pause in seconds."""

    replies: list[list[bytes | float]]
    url: str = ""
    asked: list[bytes] = field(default_factory=list)


@contextmanager
def wired(*replies: list[bytes | float]) -> Iterator[Wire]:
    """The server, on a free port of this machine, while inside."""
    wire, listening = Wire(list(replies)), socket.create_server(("127.0.0.1", 0))
    wire.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    ended = threading.Event()

    def serve(connection: socket.socket, reply: list[bytes | float]) -> None:
        with connection, contextlib.suppress(OSError):
            wire.asked.append(connection.recv(1 << 20))
            for part in reply:
                if isinstance(part, float):
                    time.sleep(part)
                elif not ended.is_set():
                    connection.sendall(part)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                reply = wire.replies[min(len(wire.asked), len(wire.replies) - 1)]
                threading.Thread(target=serve, args=(connection, reply), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield wire
    finally:
        ended.set()
        listening.close()


def whole(body: bytes, status: str = "200 OK", *headers: str) -> list[bytes | float]:
    """A reply as it should be."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ["\r\n".join(head).encode() + b"\r\n\r\n" + body]


SAID = b'{"choices": [{"message": {"content": "7"}}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MIB = b" " * (1 << 20)

BROKEN: dict[str, list[bytes | float]] = {
    "nothing": [],
    "no status line": [b"hello\r\n\r\n"],
    "a status that is no number": [b"HTTP/1.1 abc OK\r\n\r\n"],
    "a status of 999": [b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"],
    "another protocol": [b"SSH-2.0-OpenSSH_9.6\r\n"],
    "a body shorter than promised": [HEAD + b"Content-Length: 500\r\n\r\n" + SAID],
    "a length that is no number": [HEAD + b"Content-Length: many\r\n\r\n" + SAID],
    "a negative length": [HEAD + b"Content-Length: -5\r\n\r\n" + SAID],
    "two lengths": [HEAD + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + SAID],
    "a chunk of a size that is no number": [HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SAID],
    "chunks that end early": [HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n" + SAID],
    "a header without end": [HEAD + b"X: " + MIB],
    "a flood of headers": [HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(20_000))],
    "a header that is no header": [b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n" + SAID],
    "zeros in a header": [b"HTTP/1.1 200 OK\r\nX: \x00\x01\r\n\r\n" + SAID],
    "compressed without being asked": whole(b"\x1f\x8b\x08\x00junk", "200 OK", "Content-Encoding: gzip"),
    "an empty body": whole(b""),
    "html": whole(b"<html>Bad gateway</html>"),
    "JSON cut in half": whole(SAID[:20]),
    "JSON nested 100,000 deep": whole(b"[" * 100_000 + b"]" * 100_000),
    "a number of 5,000 digits": whole(b'{"choices": ' + b"9" * 5000 + b"}"),
    "no UTF-8": whole(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "null": whole(b"null"),
    "a list": whole(b"[1, 2]"),
    "no choices": whole(b'{"choices": []}'),
    "choices that are a text": whole(b'{"choices": "7"}'),
    "a list as content": whole(b'{"choices": [{"message": {"content": [7]}}]}'),
    "a number as content": whole(b'{"choices": [{"message": {"content": 7}}]}'),
    "an object as content": whole(b'{"choices": [{"message": {"content": {"text": "7"}}}]}'),
    "a byte now and then in the body": [HEAD + b"Content-Length: 500\r\n\r\n", *[b" ", 0.05] * 40],
    "a byte now and then in the headers": [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n", 0.05] * 40],
    "a status that takes for ever": [2.0],
    "an error whose body takes for ever": [b"HTTP/1.1 500 No\r\nContent-Length: 500\r\n\r\n", 2.0],
    "an error of gigabytes": [b"HTTP/1.1 500 No\r\nContent-Length: 9999999999\r\n\r\n", MIB],
    "a body of gigabytes": [HEAD + b"Content-Length: 9999999999\r\n\r\n", *[MIB] * 8],
}  # fmt: skip
