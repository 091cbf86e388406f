"""Reading a PEFT adapter from disk so that nothing fails quietly, and its name.

peft itself only warns when keys are missing or unexpected, and an old adapter whose names no longer match then does
nothing at all. Here every key and every shape has to agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parallax.models.adapter_config import check_config
from parallax.models.foreign import VLM
from parallax.models.ingredients import tensors_digest
from parallax.models.older_adapter import adapted_modules, current_names, current_patterns, expression_of
from parallax.models.sharding.base import Sharding, Whole
from parallax.records import fingerprint
from parallax.records.plain_text import quoted

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter (rather than a whole model)."""
    return (folder / CONFIG).is_file()


def uses_dora(folder: Path) -> bool:
    """Whether the adapter in the folder, if it is one, was trained with DoRA."""
    if not is_adapter(folder):
        return False
    try:
        return bool(dict(json.loads((folder / CONFIG).read_text("utf-8"))).get("use_dora"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG} is no configuration of a PEFT adapter ({quoted(error)})") from error


def load_adapter(model: VLM, folder: Path, *, read: bool = True) -> VLM:
    """Wrap `model` with the adapter in `folder`, trainable. Raises ValueError when keys or shapes do not agree.

    `read=False` leaves the weights as they are drawn, for whoever reads them in parts.
    """
    from peft import PeftConfig, get_peft_model

    with _in_words(folder):
        config = PeftConfig.from_pretrained(str(folder))
    shapes = _shapes(folder)
    with _in_words(folder):
        ranks = [min(shape) for key, shape in shapes.items() if "lora_" in key and len(shape) == 2]
        check_config(config, ranks, (name for name, _ in model.named_modules()))
    config.inference_mode = False
    names = current_names(model, shapes)
    if any(old != new for old, new in names.items()):
        if not read:
            raise ValueError(
                f"the adapter in {folder} has the names of an older transformers and is to be read in parts; run "
                "task=convert_adapter on it first"
            )
        config.target_modules = expression_of(adapted_modules(names.values()))
        config.rank_pattern = current_patterns(model, config.rank_pattern)
        config.alpha_pattern = current_patterns(model, config.alpha_pattern)
    with _in_words(folder):
        wrapped: Any = get_peft_model(model, config)
        if any(_own_weights(wrapped)):
            raise ValueError(
                f"it trains the base's own weights (bias={config.bias}), which stay as trained when it is off"
            )
    if read:
        read_adapter(wrapped, folder, Whole(wrapped))
    else:
        _check_fit(wrapped, folder)
    return wrapped


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """What peft raises about an adapter's configuration, as a ValueError that names it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        raise ValueError(f"{folder / CONFIG} does not describe an adapter of this model ({quoted(why)})") from error


def adapter_digest(wrapped: VLM, sharding: Sharding) -> str:
    """Names an adapter by its settings and weights, where it is sharded too (then called by all processes at once)."""
    from peft.utils import get_peft_model_state_dict

    config = wrapped.peft_config["default"]
    settings: dict[str, object] = {
        "r": config.r,
        "alpha": config.lora_alpha,
        "rslora": config.use_rslora,
        "dora": config.use_dora,
    }
    patterns = {"ranks": config.rank_pattern, "alphas": config.alpha_pattern}
    settings |= {name: pattern for name, pattern in patterns.items() if pattern}
    with sharding.readable():
        weights = tensors_digest(get_peft_model_state_dict(wrapped), sharding.whole)
    return fingerprint({"settings": settings, "weights": weights})


def keys_of(wrapped: VLM) -> dict[str, str]:
    """Name of each adapted or wholly trained weight in `wrapped` → its key in an adapter's file."""
    return {
        name: re.sub(r"\.(modules_to_save\.)?default(?=\.|$)", "", name)
        for name, value in wrapped.named_parameters()
        if value.requires_grad
    }


def _own_weights(wrapped: VLM) -> Iterator[str]:
    """Names of the weights that learn and belong to the base itself, not to a copy or an addition."""
    for name, value in wrapped.named_parameters():
        if value.requires_grad and not re.search(r"\.(modules_to_save|lora_\w+|token_adapter)\.", name):
            yield name


def read_adapter(wrapped: VLM, folder: Path, sharding: Sharding) -> None:
    """Put the weights in `folder` into the adapter that `wrapped` has. Raises ValueError when keys or shapes do not agree."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    _check_fit(wrapped, folder)
    names = current_names(wrapped.get_base_model(), _shapes(folder))
    saved = {names[key]: value for key, value in load_file(str(_weights_of(folder))).items()}
    if sharding.is_sharded:
        parameters = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
        sharding.take_weights(parameters, {name: saved[key] for name, key in keys_of(wrapped).items()})
    else:
        set_peft_model_state_dict(wrapped, saved)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights in an adapter's file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_weights_of(folder), "pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({quoted(error)}); copy or download it again") from error


def _check_fit(wrapped: VLM, folder: Path) -> None:
    from peft.utils import get_peft_model_state_dict

    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(wrapped).items()}
    shapes = _shapes(folder)
    names = current_names(wrapped.get_base_model(), shapes)
    saved = {names[key]: shape for key, shape in shapes.items()}
    missing, unexpected = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    reshaped = [key for key in saved.keys() & expected.keys() if saved[key] != expected[key]]
    complaints = [
        f"{len(keys)} {what} (such as {keys[0]!r})"
        for what, keys in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("keys of another shape", sorted(reshaped)),
        )
        if keys
    ]
    if complaints:
        raise ValueError(
            f"the adapter in {folder} does not fit {type(wrapped.get_base_model()).__name__}: {', '.join(complaints)}. It was "
            "made for another model or by another version; use the model it was trained on"
        )


def _weights_of(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"the adapter folder {folder} has no {WEIGHTS}; only safetensors adapters are read. task=convert_adapter makes one "
            "of adapter_model.bin"
        )
    return folder / WEIGHTS
