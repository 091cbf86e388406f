"""Checkpoints on disk: one file, or a folder with a file per process. Both hold the same and are read by any number of processes.

    step-000120.ckpt                 torch's format, without pickled objects: all in one
    step-000120.ckpt/meta.pt         the same, with a note in place of each sharded tensor
    step-000120.ckpt/00001-of-00002.safetensors   what process 1 held of sharded tensors

Reading a folder puts parts together again; files are mapped into memory, so a process that needs a part reads little more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from parallax.models import processes
from parallax.models.sharding.base import Shard

META = "meta.pt"
SHARDED = "sharded tensor"  # what stands in META in place of one: [SHARDED, name, shape]


class CheckpointFiles(TorchCheckpointIO):
    """Reads what any of our strategies wrote."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: object = None) -> None:
        """Write one file, straight to its place (`StepCheckpoints` gives an unfinished name, and renames).

        Lightning's own way needs the checkpoint's size in memory once more, and its size on the disk of the temporary folder.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)

    def load_checkpoint(
        self, path: Path | str, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content of a checkpoint, file or folder."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU, sharded tensors put together. Raises FileNotFoundError where parts are missing."""
    if path.is_file():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # type: ignore[no-any-return]
    content = torch.load(path / META, map_location="cpu", weights_only=True)
    files = parts_of(path, int(content["processes"]))
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing[:3])}; a checkpoint is whole or of no use")
    return _joined(content, files)


def write_folder(checkpoint: dict[str, Any], folder: str) -> None:
    """Write this process's part; called by every process, and whole when all have returned."""
    from safetensors.torch import save_file

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    mine: dict[str, Tensor] = {}
    noted = _without_sharded(checkpoint, "", mine)
    count = processes.world_size()
    save_file(mine, parts_of(path, count)[processes.rank()])
    if processes.is_first():
        torch.save({**noted, "processes": count}, path / META)
    processes.barrier()


def parts_of(folder: Path, count: int) -> list[Path]:
    """The files of a checkpoint that `count` processes wrote."""
    return [folder / f"{number:05d}-of-{count:05d}.safetensors" for number in range(count)]


def is_whole(folder: Path) -> bool:
    """Whether all of a checkpoint folder is there."""
    if not (folder / META).is_file():
        return False
    content = torch.load(folder / META, map_location="meta", weights_only=True)
    return all(file.is_file() for file in parts_of(folder, int(content["processes"])))


def _without_sharded(value: object, name: str, mine: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _without_sharded(item, f"{name}/{key}", mine) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_sharded(item, f"{name}/{place}", mine) for place, item in enumerate(value)]
    if isinstance(value, Shard):
        if value.local.numel():
            mine[f"{value.offset.start:012d}{name}"] = value.local.cpu().contiguous()
        return [SHARDED, name, list(value.offset.shape)]
    return value


def _joined(content: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    from safetensors import safe_open

    rows: dict[str, list[tuple[int, Tensor]]] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a dict)
                rows.setdefault(key[12:], []).append((int(key[:12]), opened.get_tensor(key)))

    def put_back(value: object) -> Any:
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and value[0] == SHARDED:
            ordered = [part for _, part in sorted(rows[value[1]], key=lambda item: item[0])]
            joined = torch.cat(ordered) if len(ordered) > 1 else ordered[0]
            return joined.view(value[2])
        if isinstance(value, dict):
            return {key: put_back(item) for key, item in value.items()}
        return [put_back(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = put_back({key: item for key, item in content.items() if key != "processes"})
    return result
