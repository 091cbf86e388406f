"""LoRA on the language model, and on the vision tower if asked for: which layers, with which settings, from which seed.

Never the projector (it is trained whole or not at all) or the output head. Names such as `q_proj` also occur in vision
towers, so targets are given as one regular expression that is anchored at the text decoder's full name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from parallax.models.backbone import decoder_name
from parallax.models.foreign import VLM
from parallax.settings.groups import Lora

PROJECTORS = (
    "multi_modal_projector",
    "mm_projector",
    "connector",
    "aligner",
    "merger",
    "deepstack_merger_list",
    "embed_vision",
    "modality_projection",
)


def language_targets(model: VLM) -> str:
    """A regular expression matching the full name of every linear layer of the text decoder, and nothing else.

    For Llama-like decoders these are q, k, v, o, gate, up and down of every layer. Raises ValueError when the decoder
    has no linear layer.
    """
    decoder = decoder_name(model)
    inside = dict(model.get_submodule(decoder).named_modules())
    forbidden = _foreign_modules(model)
    kinds = {
        re.sub(r"\d+", "#", name) for name, module in inside.items() if _is_plain(module) and module not in forbidden
    }
    if not kinds:
        raise ValueError(f"the text decoder {decoder!r} of {type(model).__name__} has no linear layer to put LoRA on")
    names = "|".join(re.escape(kind).replace(r"\#", r"\d+") for kind in sorted(kinds))
    return rf"{re.escape(decoder)}\.(?:{names})"


def vision_targets(model: VLM) -> str:
    """A regular expression matching the full name of every linear layer of the vision tower, and nothing else.

    That is all of the model but its decoder, its head and its projector. Raises ValueError where nothing is left.
    """
    projectors = [model.get_submodule(name) for name in projector_names(model)]
    language = {model.get_decoder(), model.get_output_embeddings(), *projectors}
    outside = {part for module in language for part in module.modules()}
    of_attention = {part for m in model.modules() if isinstance(m, nn.MultiheadAttention) for part in m.modules()}
    names = [
        name
        for name, module in model.named_modules()
        if _is_plain(module) and module not in outside and module not in of_attention
    ]
    if not names:
        raise ValueError(f"{type(model).__name__} has no vision tower with linear layers; use lora.vision=false")
    return "|".join(sorted({re.sub(r"\d+", r"\\d+", re.escape(name)) for name in names}))


def _is_plain(module: nn.Module) -> bool:
    """Whether it is a linear layer, quantised or not, and not a family's own, which may give more than a product (a router)."""
    return isinstance(module, nn.Linear) and not type(module).__module__.startswith("transformers.models.")


def projector_names(network: VLM) -> list[str]:
    """Full names of the modules between vision tower and language model."""
    names = []
    for name, module in network.named_modules():
        if name.rsplit(".", 1)[-1] in PROJECTORS:  # of a list, each
            names += (
                [f"{name}.{place}" for place in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
            )
    return names


def _as_expression(model: VLM, targets: str | Sequence[str]) -> str:
    """Targets as one regular expression over full names."""
    if isinstance(targets, str):
        return targets
    return "|".join(rf"(?:.+\.)?{re.escape(target)}" for target in targets)


def _foreign_modules(model: VLM) -> set[nn.Module]:
    """Everything that belongs to vision or output, should a family keep it inside its decoder."""
    foreign: set[nn.Module] = {model.get_output_embeddings()}
    for name, module in model.named_modules():
        if re.search(r"(^|\.)(vision|visual|image|multi_modal|mm_|connector|aligner|projector)", name):
            foreign.add(module)
    return foreign


def lora_config(model: VLM, settings: Lora, projector: Sequence[str] = ()) -> Any:
    """A `peft.LoraConfig` from the `lora` group: r, alpha (default 2r), dropout, targets, vision, rslora, dora.

    `targets` is "language" (see `language_targets`), a regular expression over full module names, or a list of module
    names. `vision` adds every linear layer of the vision tower. `projector` lists modules trained in full beside LoRA.
    Raises ValueError for targets that match nothing or that reach outside the text decoder.
    """
    from peft import LoraConfig

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    if targets == "language":
        targets = language_targets(model)
    _check_targets(model, targets)
    if settings.vision:
        targets = f"{_as_expression(model, targets)}|{vision_targets(model)}"
    return LoraConfig(
        r=settings.r,
        lora_alpha=2 * settings.r if settings.alpha is None else settings.alpha,  # type: ignore[arg-type]  # a scale
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        modules_to_save=list(projector) or None,
        bias="none",
        task_type="CAUSAL_LM",
    )


def add_lora(
    model: VLM,
    settings: Lora,
    *,
    seed: int,
    projector: Sequence[str] = (),
) -> Any:
    """Wrap `model` with a fresh adapter whose initial weights depend on `seed` alone.

    They are float32 above a half-precision base, so that small learning rates are not rounded away.
    """
    from peft import get_peft_model

    config = lora_config(model, settings, projector)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _check_targets(model: VLM, targets: str | Sequence[str]) -> None:
    if isinstance(targets, str):
        matched = [name for name, _ in model.named_modules() if re.fullmatch(targets, name)]
    else:
        matched = [
            name for name, _ in model.named_modules() if any(name == t or name.endswith("." + t) for t in targets)
        ]
    if not matched:
        raise ValueError(
            f"lora.targets={targets!r} matches no module of {type(model).__name__}; use lora.targets=language"
        )
    decoder = decoder_name(model)
    outside = [name for name in matched if not name.startswith(decoder + ".")]
    if outside:
        raise ValueError(
            f"lora.targets={targets!r} reaches outside the language model ({outside[0]} and {len(outside) - 1} more); only "
            f"modules below {decoder!r} may be adapted. Use lora.targets=language, or full names"
        )


@contextmanager
def bare_layers(model: VLM) -> Iterator[None]:
    """Inside: the layers under LoRA stand in their own places, so that an adapter that does nothing costs nothing.

    The numbers are those of peft's `disable_adapter`, without a wrapper's call per layer and token.
    """
    from peft.tuners.lora.layer import LoraLayer

    wrapped = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, LoraLayer) and not child.merged
    ]
    try:
        for parent, name, child in wrapped:
            setattr(parent, name, child.base_layer)
        yield
    finally:
        for parent, name, child in wrapped:
            setattr(parent, name, child)
