"""Reading a PEFT adapter from disk so that nothing fails quietly.

peft itself only warns when keys are missing or unexpected, and an old adapter whose names no longer match then does
nothing at all. Here every key and every shape has to agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter (rather than a whole model)."""
    return (folder / CONFIG).is_file()


def load_adapter(model: nn.Module, folder: Path, *, autocast: bool = True) -> Any:
    """Wrap `model` with the adapter in `folder`, trainable. Raises ValueError when keys or shapes do not agree."""
    from peft import PeftConfig, get_peft_model

    _weights_of(folder)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    wrapped: Any = get_peft_model(model, config, autocast_adapter_dtype=autocast)
    read_adapter(wrapped, folder)
    return wrapped


def read_adapter(wrapped: Any, folder: Path) -> None:
    """Put the weights in `folder` into the adapter that `wrapped` has. Raises ValueError when keys or shapes do not agree."""
    from peft import set_peft_model_state_dict
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved, expected = load_file(str(_weights_of(folder))), get_peft_model_state_dict(wrapped)
    missing, unexpected = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    reshaped = [key for key in saved.keys() & expected.keys() if saved[key].shape != expected[key].shape]
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
    set_peft_model_state_dict(wrapped, saved)


def _weights_of(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"the adapter folder {folder} has no {WEIGHTS}; only safetensors adapters are read")
    return folder / WEIGHTS
