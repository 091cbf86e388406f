"""What decides a model's numbers, beside the image and the text: the one list, for the keys of everything that is kept.

    policy      weights, their precision and bits, configuration (`config_digest`), adapter (`adapter.adapter_digest`)
    processor   settings of the image processor and its backend, the processor's own, the tokenizer whole (`processor_digest`)
    template    its text and what it renders to (`Chat.fingerprint`)
    code        versions of generation, scoring, and of the image-text model's cosines

Where a model lies and which version of a library wrote its files decide nothing and are left out.

Names for weights: the same numbers give the same name, other numbers another.

Weights that lie in files are named by the files' bytes, remembered by (path, size, modification time) so that a 14 GB
checkpoint is read once. Weights in memory are named by their tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallax.models.foreign import VLM, Processor
from parallax.records import bytes_digest, file_digest, fingerprint
from parallax.records.kept_file import why_foreign

SAYS_NOTHING = {  # keys of configuration files: names, places, versions, and what is an ingredient of its own
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "_from_model_config",
    "dtype", "torch_dtype", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "_experts_implementation", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
}  # fmt: skip
WEIGHTS = (".safetensors", ".bin", ".index.json")  # of a folder: named by `weights_digest`
DOCUMENTS = ("manifest.json", "README.md", "training_args.json")


def config_digest(network: VLM) -> str:
    """Names a network's configuration: shapes, constants such as `rope_theta`, and its generation's."""
    generation = getattr(network, "generation_config", None)
    return fingerprint(
        {
            "config": _plain(network.config.to_dict()),
            "generation": _plain(generation.to_dict()) if generation is not None else None,
        }
    )


def model_digest(weights: str, network: VLM, quantization: str = "none") -> str:
    """Names a base model: the digest of its weights, its configuration, and how its frozen weights are rounded."""
    return fingerprint({"weights": weights, "config": config_digest(network), "quantization": quantization})


def processor_digest(processor: Processor, **more: Any) -> str:
    """Names a processor with its image processor and tokenizer; `more` is plain data of ours that belongs to it."""
    image_processor, tokenizer = processor.image_processor, processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = {name: value for name, value in vars(processor).items() if isinstance(value, str | int | float | None)}
    own.pop("chat_template", None)  # of the template
    return fingerprint(
        {
            "class": type(processor).__name__,
            "own": _plain(own),
            "image_processor": type(image_processor).__name__,
            "settings": _plain(image_processor.to_dict()),
            "tokenizer": bytes_digest(backend.to_str().encode())
            if backend is not None
            else _plain(tokenizer.get_vocab()),
            "special": _plain(tokenizer.special_tokens_map),
            **more,
        }
    )


def folder_digest(folder: Path) -> str:
    """Names all that a model's folder says beside its weights: configuration, processor, tokenizer, template, by content."""
    files = (
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja")
    )
    return fingerprint(
        {
            file.name: _described(file)
            for file in files
            if not file.name.endswith(WEIGHTS) and file.name not in DOCUMENTS
        }
    )


def _described(file: Path) -> Any:
    if file.suffix == ".json" and file.name != "tokenizer.json":
        try:
            return _plain(json.loads(file.read_text("utf-8")))
        except ValueError:
            pass
    return file_digest(file)


def _plain(value: object) -> Any:
    """Plain data without what says nothing; other objects by their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key not in SAYS_NOTHING}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return repr(value)
    return value if isinstance(value, str | int | float | None) else str(value)


REMEMBERED = "weight_digests.json"


def default_memory() -> Path:
    """Where digests of weight files are remembered: `$XDG_CACHE_HOME/parallax` or `~/.cache/parallax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallax" / REMEMBERED


def files_digest(files: Iterable[Path], memory: Path | None = None) -> str:
    """The name of weights kept in `files`, by their bytes and not by where they lie. Shape-independent, 32 hex digits."""
    memory = default_memory() if memory is None else memory
    known = _read(memory)
    digests, news = {}, False
    for file in sorted(Path(f).resolve() for f in files):
        status = file.stat()
        key = f"{file}|{status.st_size}|{status.st_mtime_ns}"
        if key not in known:
            known[key], news = file_digest(file), True
        digests[file.name] = known[key]
    if news:
        _write(memory, known)
    return fingerprint({"weight_files": digests})


def tensors_digest(tensors: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor] = lambda value: value) -> str:
    """The name of weights in memory: names, types, shapes and bytes of all tensors. `whole` puts a sharded one together."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = whole(tensors[name].detach())  # every process hashes all of it
        tensor = tensor.to(
            "cpu", copy=True
        ).contiguous()  # numpy would fix the size of storage that sharding empties again
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _read(memory: Path) -> dict[str, str]:
    try:
        if why_foreign(memory):
            return {}
        known = json.loads(memory.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(memory: Path, known: dict[str, str]) -> None:
    """A memory that cannot be written costs time at the next start, nothing else."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_name(f"{memory.name}.{os.getpid()}.part")
        part.write_text(json.dumps(known, indent=1))
        part.replace(memory)
    except OSError:
        pass
