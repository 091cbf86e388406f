"""The hub may be broken, slow or somewhere else: an upload is refused or fails in a sentence, and the key goes nowhere."""

from __future__ import annotations

import json
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from parallax.models import hub
from parallax.models.hub import CannotUpload, can_upload, upload
from tests.faults import Injected
from tests.models.wire import BROKEN, whole, wired

MINE = whole(json.dumps({"name": "me", "type": "user"}).encode())


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(hub, "ASKING", {"timeout": 0.5, "retries": 0, "most_bytes": 1 << 22})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("a card")
    return tmp_path


def at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library and we look for the hub."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)


def test_who_is_logged_in_is_asked_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with wired(MINE) as wire:
        at(wire.url, monkeypatch)
        can_upload("me/mine")
        assert b"GET /v1/api/whoami-v2" in wire.asked[0] and b"Bearer hf_secret" in wire.asked[0]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(CannotUpload, match="needs a login on the hub; run `hf auth login`"):
        can_upload("me/mine")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_hub_is_a_sentence_before_anything_is_done(
    kind: str, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    began = time.monotonic()
    with wired(BROKEN[kind]) as wire:
        at(wire.url, monkeypatch)
        with pytest.raises(CannotUpload, match=r"export.push_to_hub=me/mine needs .* at 127.0.0.1:") as caught:
            can_upload("me/mine")
    assert time.monotonic() - began < 10 and len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    injected(
        "attack: broken, endless or misshapen answer of the hub", told=1, says="a sentence before anything is done"
    )


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
def test_the_key_and_the_files_go_to_no_other_host(
    status: str, folder: Path, monkeypatch: pytest.MonkeyPatch, injected: Injected
) -> None:
    with wired(MINE) as other, wired(whole(b"", status, f"Location: {other.url}/api/repos/create")) as wire:
        at(wire.url, monkeypatch)
        with pytest.raises(CannotUpload, match="redirects to 127.0.0.1"):
            can_upload("me/mine")
        with pytest.raises(CannotUpload, match="redirects to 127.0.0.1:.* upload it later with `hf upload me/mine"):
            upload(folder, "me/mine")
        assert len(wire.asked) == 2 and other.asked == []
    injected("attack: redirect of the hub to another host", told=2, says="not followed, and the key goes nowhere")


def test_an_upload_that_does_not_end_is_given_up_and_the_folder_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SILENCE", 0.1)
    with wired([b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n", 0.05] * 200]) as wire:
        at(wire.url, monkeypatch)
        began = time.monotonic()
        with pytest.raises(CannotUpload, match="Nothing is lost: the folder is"):
            upload(folder, "me/mine")
        assert time.monotonic() - began < 8 and (folder / "README.md").exists()
