"""Uploading a folder to the Hugging Face hub: only when it was asked for, and refused in words where it cannot be.

Who is logged in is asked by our own client. The upload itself is `huggingface_hub`'s, within the same bounds: no redirect to
another host, no reply of more than `MOST_BYTES`, no silence longer than `SILENCE`, and an end (`SLOWEST` bytes a second).
"""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parallax.models.http_client import MOST_BYTES, HttpClient, ServiceError, host_of
from parallax.records.plain_text import quoted
from parallax.settings.errors import ConfigError

FILES = ["*.safetensors", "*.json", "README.md", "*.jinja", "*.model", "*.txt"]  # nothing else leaves the machine
DATA = ["pairs.parquet", "pairs.json", "pairs.jsonl", "dataset_info.json", "README.md", "images/*"]  # of a set of pairs
ASKING: dict[str, Any] = {"timeout": 20.0, "retries": 2}
SILENCE = 60.0  # seconds without a byte after which a request is given up
SLOWEST = 50_000  # bytes a second, of an upload as a whole


class CannotUpload(ConfigError):
    """An upload that is not possible. The message says why and what to do."""


def why_silent(seconds: float = 5.0) -> str:
    """Why the hub cannot be asked, for a sentence; empty where something listens at its address, or a proxy is between."""
    from huggingface_hub import constants

    place = urlsplit(constants.ENDPOINT)
    if place.hostname is None or urllib.request.getproxies().get(place.scheme):
        return ""
    try:
        socket.create_connection(
            (place.hostname, place.port or (80 if place.scheme == "http" else 443)), seconds
        ).close()
    except OSError as error:
        return f"the hub at {place.hostname} does not answer ({error.strerror or error})"
    return ""


def can_upload(repository: str, key: str = "export.push_to_hub") -> None:
    """Find out before anything slow begins. Raises `CannotUpload` when this machine is offline or nobody is logged in."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise CannotUpload(
            f"{key}={repository} needs the network, and this machine is set to be offline (HF_HUB_OFFLINE); "
            "unset it, or leave it out and upload the folder later"
        )
    login = "run `hf auth login`, or leave it out and upload the folder later"
    if not (token := get_token()):
        raise CannotUpload(f"{key}={repository} needs a login on the hub; {login}")
    hub = HttpClient("the hub", f"{constants.ENDPOINT}/api", setting="HF_ENDPOINT", key=token, form="hub's", **ASKING)
    try:
        hub.get("whoami-v2", lambda reply: str(reply["name"]))
    except ServiceError as error:
        raise CannotUpload(f"{key}={repository} needs a login on the hub ({error}); {login}") from error


def upload(folder: Path, repository: str, data: bool = False) -> str:
    """Make the repository (private, unless it is there) and upload the folder's model files. Returns the address.

    `data`: it is a set of pairs, and goes into a repository of data. Raises `CannotUpload`, and the folder stays as it is.
    """
    from huggingface_hub import HfApi

    kind, patterns = ("dataset", DATA) if data else ("model", FILES)
    size = sum(file.stat().st_size for pattern in patterns for file in folder.glob(pattern))

    def send() -> str:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True, repo_type=kind)
        commit = api.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=patterns, repo_type=kind,
            commit_message="Pairs and their card" if data else "Adapter and model card",
        )  # fmt: skip
        return str(commit.commit_url)

    try:
        with _bounded():
            return _within(10 * SILENCE + size / SLOWEST, send)
    except Exception as error:  # the library's, of several clients
        raise CannotUpload(
            f"the upload to {repository} failed ({quoted(error) or type(error).__name__}). Nothing is lost: the folder is "
            f"{folder}; upload it later with `hf upload {repository} {folder}`"
        ) from error


@contextmanager
def _bounded() -> Iterator[None]:
    """While inside, the library's client keeps to the bounds of this file."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    def client() -> Any:
        made = _http.default_client_factory()
        made.timeout = SILENCE
        made.event_hooks = {**made.event_hooks, "response": [*made.event_hooks.get("response", []), _stays]}
        return made

    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(_http.default_client_factory)


def _stays(reply: Any) -> None:
    here = reply.request.url
    there = here.join(reply.headers["location"]) if reply.has_redirect_location else here
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise ServiceError(f"the hub at {host_of(str(here))} redirects to {host_of(str(there))}, which is not followed")
    if int(reply.headers.get("content-length", 0)) > MOST_BYTES:
        raise ServiceError(f"the hub at {host_of(str(here))} sent more than {MOST_BYTES >> 20} MiB for one reply")


def _within(seconds: float, work: Callable[[], str]) -> str:
    """What `work` gives, made in a thread of its own that is left behind when it takes longer. Raises what `work` raises."""
    outcome: list[str | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True, name="upload")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"it took longer than {seconds:.0f} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
