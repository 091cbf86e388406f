"""Uploading a folder to the Hugging Face hub: only when it was asked for, and refused in words where it cannot be."""

from __future__ import annotations

from pathlib import Path

from parallax.settings.errors import ConfigError

FILES = ["*.safetensors", "*.json", "README.md", "*.jinja", "*.model", "*.txt"]  # nothing else leaves the machine


class CannotUpload(ConfigError):
    """An upload that is not possible. The message says why and what to do."""


def can_upload(repository: str) -> None:
    """Find out before anything slow begins. Raises `CannotUpload` when this machine is offline or nobody is logged in."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise CannotUpload(
            f"export.push_to_hub={repository} needs the network, and this machine is set to be offline (HF_HUB_OFFLINE); "
            "unset it, or leave export.push_to_hub out and upload the adapter's folder later"
        )
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CannotUpload(
            f"export.push_to_hub={repository} needs a login on the hub ({str(error).splitlines()[0][:160]}); run `hf auth "
            "login`, or leave export.push_to_hub out and upload the adapter's folder later"
        ) from error


def upload(folder: Path, repository: str) -> str:
    """Make the repository (private, unless it is there) and upload the folder's model files. Returns the address."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository, folder_path=str(folder), allow_patterns=FILES, commit_message="Adapter and model card"
    )
    return str(commit.commit_url)
