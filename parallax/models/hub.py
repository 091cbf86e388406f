"""Uploading a folder to the Hugging Face hub: only when it was asked for, and refused in words where it cannot be."""

from __future__ import annotations

from pathlib import Path

from parallax.settings.errors import ConfigError

FILES = ["*.safetensors", "*.json", "README.md", "*.jinja", "*.model", "*.txt"]  # nothing else leaves the machine
DATA = ["pairs.parquet", "pairs.json", "pairs.jsonl", "dataset_info.json", "README.md", "images/*"]  # of a set of pairs


class CannotUpload(ConfigError):
    """An upload that is not possible. The message says why and what to do."""


def can_upload(repository: str, key: str = "export.push_to_hub") -> None:
    """Find out before anything slow begins. Raises `CannotUpload` when this machine is offline or nobody is logged in."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise CannotUpload(
            f"{key}={repository} needs the network, and this machine is set to be offline (HF_HUB_OFFLINE); "
            "unset it, or leave it out and upload the folder later"
        )
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CannotUpload(
            f"{key}={repository} needs a login on the hub ({str(error).splitlines()[0][:160]}); run `hf auth "
            "login`, or leave it out and upload the folder later"
        ) from error


def upload(folder: Path, repository: str, data: bool = False) -> str:
    """Make the repository (private, unless it is there) and upload the folder's model files. Returns the address.

    `data`: it is a set of pairs, and goes into a repository of data.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    kind = "dataset" if data else "model"
    api.create_repo(repository, private=True, exist_ok=True, repo_type=kind)
    commit = api.upload_folder(
        repo_id=repository, folder_path=str(folder), allow_patterns=DATA if data else FILES, repo_type=kind,
        commit_message="Pairs and their card" if data else "Adapter and model card",
    )  # fmt: skip
    return str(commit.commit_url)
