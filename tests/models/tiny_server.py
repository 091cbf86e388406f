"""A small real HTTP server that speaks OpenAI's protocol as vLLM does, around a policy of this program."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from parallax.models.generation.requests import Generation, GenerationRequest
from parallax.models.policy import Policy
from parallax.records import Decoding, ViewSpec, bytes_digest


@dataclass(frozen=True)
class Sent:
    """A picture that came over the wire."""

    data: bytes

    def load(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data)).convert("RGB")

    def digest(self) -> str:
        return bytes_digest(self.data)

    def describe(self) -> str:
        return "sent"


class Blank(Sent):
    """Where no picture came."""

    def __init__(self) -> None:
        super().__init__(b"")

    def load(self) -> Image.Image:
        return Image.new("RGB", (40, 30))


@dataclass
class TinyServer:
    """What it serves, what it was asked, and how it misbehaves."""

    policy: Policy
    url: str = ""
    model: str = "tiny"
    failures: int = 0  # requests to be answered with 503 before it works
    gives_token_ids: bool = True
    drops_bos: bool = False  # as vLLM does of its own accord where the chat template writes none
    tampers: Callable[[dict[str, Any]], None] | None = None  # with a reply, before it is sent
    continues: bool = True  # an answer whose beginning it is given
    more_image_tokens: int = 0  # as if its processor had other settings
    asked: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    adapters: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    model_lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        message, *begun = body["messages"]
        *images, text = message["content"]
        pictures = [Sent(base64.b64decode(image["image_url"]["url"].split(",", 1)[1])) for image in images]
        view = ViewSpec() if pictures else ViewSpec("no_image")
        picture = pictures[0] if pictures else Blank()
        start = begun[0]["content"] if begun and self.continues else ""
        assert not begun or (body["continue_final_message"] and not body["add_generation_prompt"])
        decoding = Decoding(body["max_tokens"], body["temperature"], body.get("top_p", 1.0), body.get("seed", 0))
        with self.model_lock:
            if body["model"] in self.adapters:
                from parallax.models.adapter import read_adapter

                read_adapter(self.policy.model, Path(self.adapters[body["model"]]), self.policy.sharding)
                self.policy.touched()
            request = GenerationRequest("sent", picture, text["text"], view, decoding, answer_start=start)
            said = self.policy.generate([request], num_workers=0)[0]
        encoder = self.policy.encoder
        given = encoder.encode_start(start)
        if given:
            ids = said.token_ids[len(given) :]
            said = Generation(ids, encoder.decode(ids), said.finished)
        read = [*encoder.encode_prompt(picture.load(), text["text"], view).input_ids.tolist(), *given]
        if self.drops_bos or not body["add_special_tokens"]:
            read = read[1:]
        widest = read.index(max(set(read), key=read.count)) if pictures else 0
        read[widest:widest] = [read[widest]] * self.more_image_tokens
        choice = {
            "index": 0, "finish_reason": "stop" if said.finished else "length",
            "message": {"role": "assistant", "content": said.text},
        }  # fmt: skip
        if self.gives_token_ids:
            choice["token_ids"] = list(said.token_ids)
        told = {"prompt_token_ids": read} if self.gives_token_ids else {}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            **told,
        }


@contextmanager
def serving(server: TinyServer) -> Iterator[TinyServer]:
    """The server, listening on a free port of this machine while inside."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            names = [server.model, *server.adapters]
            self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/load_lora_adapter"):
                server.adapters[body["lora_name"]] = body["lora_path"]
                return self.reply(200, "Success")
            with server.lock:
                server.asked.append(body)
                fails, server.failures = server.failures > 0, max(0, server.failures - 1)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                if fails:
                    return self.reply(503, {"error": {"message": "overloaded"}})
                if len(body["messages"][0]["content"][-1]["text"]) > 5000:
                    return self.reply(400, {"error": {"message": "maximum context length exceeded"}})
                said = server.answer(body)
                if server.tampers is not None:
                    server.tampers(said)
                self.reply(200, said)
            finally:
                with server.lock:
                    server.at_once -= 1

        def reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
