"""Whether W&B can be reached: is there a key, does the server answer. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AXIS = "trainer/global_step"  # what curves of a run of one stage are drawn against
ANSWER_SECONDS = 10  # the server has so long to answer at all


def wandb_mode(options: Mapping[str, Any], *, ask: bool = True) -> tuple[str, str]:
    """online, offline or disabled, and why it is offline when nobody asked for that.

    Args:
        options: `mode` as in conf/logger/wandb.yaml; `WANDB_MODE` comes before it.
        ask: whether to ask the server for a word; otherwise it is taken to answer.
    """
    mode = os.environ.get("WANDB_MODE") or options.get("mode") or "auto"
    if mode in ("offline", "disabled", "dryrun"):
        return ("offline" if mode == "dryrun" else str(mode)), ""
    if not has_wandb_key():
        return "offline", "no W&B key was found"
    if ask and (silence := _silence()):
        return "offline", silence
    return "online", ""


def _silence() -> str:
    """Why the server cannot be talked to; empty when it answers, with whatever status."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(_server(), timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{_server()} does not answer ({reason})"
    return ""


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_wandb_key() -> bool:
    """Whether W&B would find a key or token: in the environment or in ~/.netrc. Asks nothing over the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import netrc

    host = _server().split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False
