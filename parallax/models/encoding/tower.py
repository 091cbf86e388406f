"""What a family's tower and projector make of images: all at once where what comes out can be told apart, else one by one.

transformers' models give features as the output object of their own `get_image_features`. What such an object holds differs by
family: features as one tensor or one per image, features for deeper layers (Qwen3-VL), rows of a table that belong to no image
(Ovis2). How each field lies along the images is found out by asking the model, not from a list of names: the same image is
encoded once and twice at once, and what changed is what counts images.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import pad as pad_tensor

from parallax.models.foreign import VLM

NOTHING = torch.empty(0)
UNREAD = ("last_hidden_state", "hidden_states", "attentions")  # of the tower; language models look at `pooler_output`
Rule = Literal["rows", "items", "layers", "same", "none"]
Value = Tensor | list[Any]  # a tensor, or a list of such values
Fields = dict[str, Value]
_RULES: WeakKeyDictionary[nn.Module, dict[str, Rule]] = WeakKeyDictionary()  # of each model that was asked
_ONE_BY_ONE: WeakSet[nn.Module] = WeakSet()  # models that give images of different sizes in one piece


def takes_features(model: VLM) -> bool:
    """Whether the model's forward has a place for ready features and the model makes such, of tensors alone.

    Features that name the layers of the decoder they are added to (Granite 4) are no such.
    """
    layered = hasattr(model.config, "deepstack_layer_map")
    return accepts(model, "mm_encoder_outputs") and hasattr(model, "get_image_features") and not layered


def fields_of(model: VLM, images: Sequence[dict[str, Tensor]]) -> tuple[list[Fields], dict[str, Rule]]:
    """What the model makes of each image, field by field, and how each field is put together with that of the next image.

    `images`: what the image processor gave for each, on the model's device and in its precision.
    """
    shapes = [{name: value.shape for name, value in image.items()} for image in images]
    alike = all(shape == shapes[0] for shape in shapes)
    if len(images) > 1 and (alike or model not in _ONE_BY_ONE):
        whole = _encoded(model, images)
        rules = _rules_of(model, images[0], whole)
        if alike or _one_item_each(rules, whole, len(images)):
            parts = _per_image(rules, whole, len(images))
            if parts is not None:
                return parts, rules
        _ONE_BY_ONE.add(model)
    singles = [_encoded(model, [image]) for image in images]
    return singles, _rules_of(model, images[0], singles[0])


def join_vision(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The vision inputs of several images as one batch.

    Images lie one after the other along the first dimension, whatever that counts in the family (images, or patches), and
    along the last in the strip of patches that comes with `target_sizes` (MiniCPM-V).
    Images with fewer tiles or patches in a later dimension are filled up with zeros, which the models cut off again.
    """
    images = [image for image in images if image]  # a prompt may show none
    if not images:
        return {}
    joined = {}
    for name in images[0]:
        parts = [image[name] for image in images]
        along = -1 if name == "pixel_values" and "target_sizes" in images[0] else 0
        if parts[0].ndim > 1 and along == 0:
            sizes = [max(part.shape[d] for part in parts) for d in range(1, parts[0].ndim)]
            parts = [
                pad_tensor(part, [n for d in range(part.ndim - 1, 0, -1) for n in (0, sizes[d - 1] - part.shape[d])])
                if list(part.shape[1:]) != sizes
                else part
                for part in parts
            ]
        joined[name] = torch.cat(parts, along)
    return joined


@lru_cache(maxsize=64)
def parameters_of(cls: Hashable, method: str) -> frozenset[str]:
    """Names of a method's parameters."""
    return frozenset(inspect.signature(getattr(cls, method)).parameters)


def accepts(model: VLM, name: str) -> bool:
    """Whether the model's forward has a parameter of this name."""
    cls: Any = type(model)
    return name in parameters_of(cls, "forward")


def _is_there(value: Value) -> bool:
    """Whether a field holds anything; an empty list stands for None."""
    return isinstance(value, Tensor) or bool(value)


# -- inside --------------------------------------------------------------------------------------------------------


def _encoded(model: VLM, images: Sequence[dict[str, Tensor]]) -> Fields:
    """The fields that a language model may read of the output for these images."""
    core = model.model if hasattr(getattr(model, "model", None), "get_image_features") else model
    cls: Any = type(core)
    known = parameters_of(cls, "get_image_features")
    inputs = {name: value for name, value in join_vision(images).items() if name in known}
    fields: Fields = {}
    output = model.get_image_features(**inputs, return_dict=True)
    for name in (part.name for part in dataclasses.fields(output)):
        value = getattr(output, name)
        if name in UNREAD and (name != UNREAD[0] or output.pooler_output is not None):
            continue
        kept = [] if value is None else _tensors_of(value)  # an empty list: the family has this field and it is None
        if kept is not None:
            fields[name] = kept
    return fields


def _rules_of(model: VLM, image: dict[str, Tensor], seen: Fields) -> dict[str, Rule]:
    """How each field lies along the images, found out once for each model. `seen`: an output for one image or for several."""
    if model not in _RULES:
        there = [value for value in seen.values() if _is_there(value)]
        if len(there) == 1:
            only: Rule = "rows" if isinstance(there[0], Tensor) else "items"
            _RULES[model] = {name: only if _is_there(value) else "none" for name, value in seen.items()}
        else:
            with torch.no_grad():
                once, twice = _encoded(model, [image]), _encoded(model, [image, image])
            _RULES[model] = {name: _rule(value, twice[name]) for name, value in once.items()}
    return _RULES[model]


def _rule(one: Value, two: Value) -> Rule:
    if not _is_there(one):
        return "none"
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        return "same" if _shapes(one) == _shapes(two) else "rows"
    if len(one) != len(two):
        return "items"
    return "same" if _shapes(one) == _shapes(two) else "layers"


def _tensors_of(value: object) -> Value | None:
    """Nested lists of tensors as such; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (list, tuple)):
        return None
    inner = [_tensors_of(item) for item in value]
    return None if any(item is None for item in inner) else inner


def _shapes(value: Value) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else [_shapes(item) for item in value]


def _one_item_each(rules: dict[str, Rule], whole: Fields, count: int) -> bool:
    """Whether every field is a list with one item for each of `count` images, so that sizes need not be alike."""
    lists = [value for name, value in whole.items() if rules[name] == "items"]
    lists += [layer for name, value in whole.items() if rules[name] == "layers" for layer in value]
    return all(isinstance(value, list) and len(value) == count for value in lists) and "rows" not in rules.values()


def _per_image(rules: dict[str, Rule], whole: Fields, count: int) -> list[Fields] | None:
    """The features of `count` images of one shape that were encoded together; None where they cannot be told apart."""
    parts: list[Fields] = [{} for _ in range(count)]
    for name, value in whole.items():
        rule = rules[name]
        if rule in ("same", "none"):
            pieces: list[Any] = [value] * count
        elif rule == "layers":
            if any(len(layer) % count for layer in value):
                return None
            pieces = [[layer[_share(layer, count, i)] for layer in value] for i in range(count)]
        else:
            if len(value) % count:
                return None
            pieces = [value[_share(value, count, i)] for i in range(count)]
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece
    return parts


def _share(value: Value, count: int, place: int) -> slice:
    size = len(value) // count
    return slice(place * size, (place + 1) * size)
