"""One random image and a few text tokens in the form that a family's forward wants them, found out from its signature.

There is no processor behind it: shapes follow from the vision configuration, and the number of image tokens is that of the
features the model makes of the image. Several layouts are offered; the first that the model takes is the right one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from parallax.models.foreign import VLM, Config

TEXT = (31, 37, 41, 43)  # token ids of the text; checked not to be control tokens
FALLBACK_COUNTS = (16, 4, 1, 64, 0)  # image tokens tried where a model does not say how many it makes


class NoImageToken(ValueError):
    """A family whose prompts hold no image token, or that only its processor knows."""


def candidates(model: VLM, generator: torch.Generator, columns: int = 4) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(name of the layout, vision inputs) for one image, the likeliest first.

    `columns`: patches in each of the four rows of an image, in families whose inputs say so.
    """
    wanted = set(inspect.signature(model.forward).parameters)
    vision = vision_config(model)
    channels = _first(vision, "num_channels", "in_channels", "in_chans", default=3)
    patch = _first(vision, "patch_size", "spatial_patch_size", default=14)
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    side = _first(vision, "image_size", default=None)
    side = max(side.values()) if isinstance(side, dict) else max(side) if isinstance(side, (list, tuple)) else side
    side = side if isinstance(side, int) and side <= 256 else 4 * patch

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sizes = {"image_sizes": torch.tensor([[side, side]])} if "image_sizes" in wanted else {}
    if "image_grid_thw" in wanted or "image_grid_hw" in wanted:
        name, grid = (
            ("image_grid_thw", [[1, 4, columns]]) if "image_grid_thw" in wanted else ("image_grid_hw", [[4, columns]])
        )
        more: dict[str, Tensor] = {name: torch.tensor(grid)}
        if "image_merge_sizes" in wanted:
            more["image_merge_sizes"] = torch.tensor([1])
        frames = _first(vision, "temporal_patch_size", default=1)
        for depth in dict.fromkeys((frames, 1, 2)):
            yield "flat patches", {"pixel_values": noise(4 * columns, channels * depth * patch * patch), **more}
        yield "patches", {"pixel_values": noise(4 * columns, channels, patch, patch), **more}
        yield "patches", {"pixel_values": noise(1, 4 * columns, channels, patch, patch), **more}
    if "image_position_ids" in wanted:
        places = torch.tensor([[[x, y] for y in range(6) for x in range(6)]])
        for depth in (patch, patch * _first(vision, "pooling_kernel_size", default=1)):
            yield (
                "patches with places",
                {"pixel_values": noise(1, 36, channels * depth * depth), "image_position_ids": places},
            )
    if "spatial_shapes" in wanted:
        pixels = noise(1, 4 * columns, channels * patch * patch)
        yield (
            "flat patches",
            {
                "pixel_values": pixels,
                "spatial_shapes": torch.tensor([[4, columns]]),
                "pixel_attention_mask": torch.ones(1, 4 * columns, dtype=torch.long),
            },
        )
    if "aspect_ratio_ids" in wanted:
        tiles = _first(vision, "max_num_tiles", default=4)
        yield (
            "tiles with aspect ratio",
            {
                "pixel_values": noise(1, 1, tiles, channels, side, side),
                "aspect_ratio_ids": torch.tensor([[1]]),
                "aspect_ratio_mask": torch.tensor([[[1] + [0] * (tiles - 1)]]),
            },
        )
    if "pixel_attention_mask" in wanted:
        mask = torch.ones(1, 1, side, side, dtype=torch.bool)
        yield "list of images", {"pixel_values": noise(1, 1, channels, side, side), "pixel_attention_mask": mask}
        mask = torch.ones(1, 1, dtype=torch.bool)
        yield "list of tiles", {"pixel_values": noise(1, 1, channels, side, side), "pixel_attention_mask": mask}
    if "high_res_pixel_values" in wanted:
        high = _first(getattr(model.config, "high_res_vision_config", None), "image_size", default=side)
        yield "two resolutions", {
            "pixel_values": noise(1, channels, side, side), "high_res_pixel_values": noise(1, channels, high, high)
        }  # fmt: skip
    if "pixel_values_local" in wanted:
        for edge in dict.fromkeys((side, 1024)):
            yield "overview without tiles", {"pixel_values": noise(1, channels, edge, edge)}
    if "qformer_input_ids" in wanted:
        yield "picture with query text", {
            "pixel_values": noise(1, channels, side, side), "qformer_input_ids": torch.tensor([list(TEXT)])
        }  # fmt: skip
    if "pixel_values_images" in wanted:
        yield "picture", {"pixel_values_images": noise(1, channels, side, side)}
    if "pixel_mask" in wanted:
        mask = torch.ones(1, side, side, dtype=torch.bool)
        yield "picture", {"pixel_values": noise(1, channels, side, side), "pixel_mask": mask}
    if "pixel_values" in wanted:
        for more in (sizes, {}) if sizes else ({},):
            yield "tiles", {"pixel_values": noise(1, 5, channels, side, side), **more}
            yield "picture", {"pixel_values": noise(1, channels, side, side), **more}
            yield "one tile", {"pixel_values": noise(1, 1, channels, side, side), **more}


def prompts(model: VLM, vision: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The text around the image, with as many image tokens as the model makes of it. Shapes: (1, P)."""
    wanted = set(inspect.signature(model.forward).parameters)
    image = image_token(model)
    count = _feature_count(model, vision)
    for number in FALLBACK_COUNTS if count is None else (count,):
        start, end = (_first(model.config, f"vision_{edge}_token_id", default=None) for edge in ("start", "end"))
        around = ([start] if start is not None else [], [end] if end is not None else [])
        ids = torch.tensor([[1, *around[0], *[image] * number, *around[1], *TEXT]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in wanted:
                inputs[name] = (ids == image).long()
        if "moe_mm_token_type_ids" in wanted:
            inputs["moe_mm_token_type_ids"] = (ids == image).long()
        if "image_embeds_position_mask" in wanted:
            inputs["image_embeds_position_mask"] = (ids == image).long()
        if "cross_attention_mask" in wanted and "aspect_ratio_mask" in vision:
            tiles = vision["aspect_ratio_mask"].shape[-1]
            inputs["cross_attention_mask"] = torch.ones(1, ids.shape[1], 1, tiles, dtype=torch.long)
        yield inputs


def vision_config(model: VLM) -> Any:
    """The part of the configuration about the vision tower, whatever it is called."""
    for name in ("vision_config", "vision_tower_config", "perceiver_config", "vq_config", "vit_config", "encoder"):
        found = getattr(model.config, name, None)
        if found is not None:
            return found
    return model.config


def image_token(model: VLM) -> int:
    """Id of the image token. Raises NoImageToken where the configuration names none."""
    for name in ("image_token_id", "image_token_index", "image_patch_id", "boi_token_index", "img_token_id"):
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            return value
    raise NoImageToken("its configuration names no image token")


def _feature_count(model: VLM, vision: dict[str, Tensor]) -> int | None:
    owner = next((part for part in (model, getattr(model, "model", None)) if hasattr(part, "get_image_features")), None)
    if owner is None:
        return None
    features: Any = owner.get_image_features(**vision)
    features = getattr(features, "pooler_output", features)
    if isinstance(features, Tensor):
        return int(features.numel() // features.shape[-1])
    if isinstance(features, (list, tuple)) and all(isinstance(part, Tensor) for part in features):
        return sum(int(part.numel() // part.shape[-1]) for part in features)
    return None


def _first(config: Config | None, *names: str, default: object) -> Any:
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    return default
