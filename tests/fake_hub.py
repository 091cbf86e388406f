"""A hub on this machine: repositories in memory, answered as huggingface_hub and datasets ask for them, uploads included."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Repository = tuple[str, str]  # "dataset" or "model", and owner/name


@dataclass
class FakeHub:
    """What it holds, and what it was asked: `GET /api/…` lines in order."""

    files: dict[Repository, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    private: dict[Repository, bool] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256, before their commit
    url: str = ""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """The hub, on a free port, while inside; `HF_ENDPOINT=<url>` points a process to it."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _revision(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def do_PUT(self) -> None:
        self.hub.asked.append(f"PUT {self.path}")
        self.hub.uploaded[self.path.rpartition("/")[2]] = self._body()
        self._send(b"")

    def do_POST(self) -> None:
        self.hub.asked.append(f"POST {self.path}")
        path, body = urlsplit(self.path).path, self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            self._of(
                (asked.get("type", "model"), name), asked.get("visibility") == "private" or bool(asked.get("private"))
            )
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if found := re.fullmatch(r"(/datasets)?/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            made = [
                {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}}
                for one in objects
            ]
            return self._json({"transfer": "basic", "objects": made}, "application/vnd.git-lfs+json")
        found = re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)/(preupload|commit|paths-info)/([^/]+)", path)
        if found is None:
            return self._send(b"{}", 404)
        repository = (found[1], found[2])
        files = self._of(repository)
        if found[3] == "preupload":
            large = (".parquet", ".png", ".jpg", ".safetensors")
            asked_files = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for one in asked_files
            ]
            return self._json({"files": modes})
        if found[3] == "paths-info":
            wanted = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get("paths", [])
            return self._json([self._entry(name, files[name]) for name in wanted if name in files])
        for line in body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "lfsFile":
                files[row["value"]["path"]] = self.hub.uploaded[row["value"]["oid"]]
        sha = _revision(files)
        return self._json({"commitUrl": f"{self.hub.url}/{found[2]}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    def _read(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            return self._json({"type": "user", "name": "me", "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = ("dataset" if found[1] else "model", found[2])
            files = self.hub.files.get(repository, {})
            if found[4] not in files:
                error = "EntryNotFound" if repository in self.hub.files else "RepoNotFound"
                return self._send(b"", 404, **{"X-Error-Code": error})
            data = files[found[4]]
            more = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": _revision(files)}
            start, end = 0, len(data)
            if ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(ranged[1]), min(int(ranged[2]) + 1 if ranged[2] else len(data), len(data))
                more["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            return self._send(data[start:end], 206 if ranged else 200, "application/octet-stream", **more)
        found = re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
        if found is None or (found[1], found[2]) not in self.hub.files:
            return self._send(b'{"error": "Repository not found"}', 404, **{"X-Error-Code": "RepoNotFound"})
        files = self.hub.files[found[1], found[2]]
        if found[4] not in (None, "main", _revision(files)):
            return self._send(b"{}", 404, **{"X-Error-Code": "RevisionNotFound"})
        if found[3] == "tree":
            under = f"{found[5]}/" if found[5] else ""
            inside = [name for name in files if name.startswith(under)]
            folders = {name[: at + len(under)] for name in inside if (at := name[len(under) :].find("/")) > 0}
            listed = [name for name in inside if "recursive=true" in self.path.lower() or "/" not in name[len(under) :]]
            if not inside and under:
                return self._send(b"{}", 404, **{"X-Error-Code": "EntryNotFound"})
            rows: list[Any] = [self._entry(name, files[name]) for name in listed]
            return self._json(
                [*rows, *({"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders)]
            )
        return self._json(
            {"id": found[2], "sha": _revision(files), "private": False, "tags": [], "downloads": 0, "likes": 0,
             "siblings": [{"rfilename": name} for name in files], "gated": False, "disabled": False}
        )  # fmt: skip

    def _of(self, repository: Repository, private: bool = False) -> dict[str, bytes]:
        self.hub.private.setdefault(repository, private)
        return self.hub.files.setdefault(repository, {})

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, content: Any, kind: str = "application/json") -> None:
        self._send(json.dumps(content).encode(), 200, kind)

    def _send(self, data: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
