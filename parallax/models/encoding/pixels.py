"""Views that act on the normalised image tensor, whatever shape a family's image processor gives it.

Some processors hand over one picture, some cut it into flat patches (Qwen-VL), some into tiles beside a small overview
(LLaVA-NeXT). A view must see one picture, so that noise is drawn once per pixel and is the same in every copy of that
pixel. The picture is therefore put together again from the processor's own output (a permutation of numbers, nothing is
resampled), shown to the view, and taken apart as before. Tiles whose picture is not known (InternVL, SmolVLM) are shown to the
view side by side. A family that is shown the picture at two sizes (DeepSeek-VL's hybrid), its crops in a tensor of their own
(Step3) or tiles as rows of patches (LFM2-VL, Molmo) has each of these changed in turn, by one generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from parallax.models.foreign import ImageProcessor

OF_PATCHES = {
    "spatial_shapes",
    "image_position_ids",
    "image_token_pooling",
}  # beside flat patches with colours innermost
Change = Callable[[Tensor], Tensor]  # (3, H, W) float32 normalised -> (3, H, W)


def change_pixels(vision: dict[str, Tensor], change: Change, image_processor: ImageProcessor) -> dict[str, Tensor]:
    """The same vision inputs with `change` applied to the normalised picture.

    `vision` is the image processor's output for one image. Raises ValueError for a layout that is not known.
    """
    if not pixel_names(vision):
        raise ValueError(
            f"{type(image_processor).__name__} gives no pixel_values, only {', '.join(vision) or 'nothing'}"
        )
    changed = {name: _changed(name, vision, change, image_processor) for name in pixel_names(vision)}
    return {**vision, **changed}


def pixel_names(vision: Iterable[str]) -> list[str]:
    """Those of the vision inputs that hold pixels: `pixel_values`, and what some families have beside it or instead of it."""
    return [name for name in vision if "pixel_values" in name]


def _changed(name: str, vision: dict[str, Tensor], change: Change, image_processor: ImageProcessor) -> Tensor:
    pixels = vision[name].float()
    if "image_grid_thw" in vision and pixels.ndim == 2:
        changed = _change_flattened(pixels, vision["image_grid_thw"], change, image_processor)
    elif pixels.ndim == 5 and pixels.shape[0] == 1 and getattr(image_processor, "image_grid_pinpoints", None):
        changed = _change_tiled(pixels, vision["image_sizes"], change, image_processor)
    elif pixels.ndim in (4, 5) and pixels.shape[-3] == 3:
        changed = _change_tiles(pixels, change)
    elif pixels.ndim == 3 and not OF_PATCHES.isdisjoint(vision):
        changed = _change_patches(pixels, vision, change)
    else:
        raise _unknown(f"{name} of shape {tuple(pixels.shape)}", image_processor)
    if changed.shape != pixels.shape:
        raise ValueError(f"a view must keep the tensor's shape {tuple(pixels.shape)}, it gave {tuple(changed.shape)}")
    return changed


def _unknown(what: str, image_processor: ImageProcessor) -> ValueError:
    return ValueError(
        f"{type(image_processor).__name__} gives {what}, a layout whose picture cannot be put together again; use a view that "
        "acts on the image itself (such as aug=moco_v2 or aug=low_resolution)"
    )


def painted(vision: dict[str, Tensor], change: Change, image_processor: ImageProcessor) -> Any:
    """The normalised picture after `change`, as a PIL image of the same size: scaled back, cut off at 0 and 255, rounded.

    Raises ValueError for tiled layouts, whose overview no single picture brings about.
    """
    from PIL import Image

    shown = [vision[name] for name in pixel_names(vision)]
    if len(shown) > 1 or shown[0].ndim in (3, 5) or (shown[0].ndim == 4 and len(shown[0]) > 1):
        raise ValueError(
            f"{type(image_processor).__name__} shows images in parts, and a view of the normalised tensor cannot be sent to it "
            "as a picture; use generation=transformers, or a view that acts on the image itself"
        )
    seen: list[Tensor] = []

    def keep(pixels: Tensor) -> Tensor:
        seen.append(change(pixels))
        return seen[0]

    change_pixels(vision, keep, image_processor)
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    colours = ((seen[0] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(colours.permute(1, 2, 0).numpy())


def unflatten(patches: Tensor, grid: tuple[int, int, int], patch: int, merge: int, frames: int) -> Tensor:
    """Qwen-VL's flat patches back as one picture. (h*w, 3*frames*patch²) -> (3, h*patch, w*patch)."""
    _, rows, columns = grid
    blocks = patches.reshape(rows // merge, columns // merge, merge, merge, 3, frames, patch, patch)[:, :, :, :, :, 0]
    picture = blocks.permute(4, 0, 2, 5, 1, 3, 6)  # (3, rows/m, m, patch, columns/m, m, patch)
    return picture.reshape(3, rows * patch, columns * patch)


def flatten(picture: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """The inverse of `unflatten`: every frame is a copy of the picture."""
    rows, columns = picture.shape[1] // patch, picture.shape[2] // patch
    blocks = picture.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, frames, -1, -1)
    return blocks.reshape(rows * columns, 3 * frames * patch * patch)


def _change_flattened(patches: Tensor, grid_thw: Tensor, change: Change, processor: ImageProcessor) -> Tensor:
    if len(grid_thw) != 1 or int(grid_thw[0, 0]) != 1:
        raise ValueError(f"a view needs exactly one still image, got image_grid_thw = {grid_thw.tolist()}")
    patch, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    frames, grid = int(frames), (1, int(grid_thw[0, 1]), int(grid_thw[0, 2]))
    picture = unflatten(patches, grid, patch, merge, frames)
    if torch.equal(flatten(picture, patch, merge, frames), patches):
        return flatten(change(picture), patch, merge, frames)
    ours = _swapped(patches, frames, 3)  # Muse: row by row, in each patch the colours of a frame after one another
    picture = unflatten(ours, grid, patch, 1, frames)
    if not torch.equal(flatten(picture, patch, 1, frames), ours):
        raise _unknown("patches whose frames are no copies of one picture", processor)
    return _swapped(flatten(change(picture), patch, 1, frames), 3, frames)


def _swapped(patches: Tensor, first: int, second: int) -> Tensor:
    """Two inner dimensions of flat patches, exchanged. (N, first * second * …) -> (N, second * first * …)."""
    return patches.reshape(len(patches), first, second, -1).transpose(1, 2).reshape(patches.shape)


def _change_tiles(pixels: Tensor, change: Change) -> Tensor:
    """Tiles of equal size as they are, the whole picture made small among them (InternVL, Idefics3, SmolVLM), or one picture.

    They are laid side by side, so that the view is drawn once for all of them: noise of one strength, a number of its own for
    each pixel of each tile. (…, 3, H, W) -> the same.
    """
    tiles = pixels.reshape(-1, *pixels.shape[-3:])
    count, channels, height, width = tiles.shape
    picture = change(tiles.permute(1, 2, 0, 3).reshape(channels, height, count * width))
    apart = picture.reshape(channels, height, count, width).permute(2, 0, 1, 3)
    return apart.reshape(pixels.shape)


def _change_patches(pixels: Tensor, vision: dict[str, Tensor], change: Change) -> Tensor:
    """Flat patches row by row, colours innermost, filled up with zeros: Gemma 4's picture, LFM2-VL's and Molmo's tiles in turn.

    (tiles, patches, patch² * 3) -> the same.
    """
    changed = pixels.clone()
    side = math.isqrt(pixels.shape[-1] // 3)
    shapes = [[math.isqrt(pixels.shape[1])] * 2] * len(pixels)  # Molmo: square tiles
    if "spatial_shapes" in vision:
        shapes = vision["spatial_shapes"].tolist()
    elif "image_position_ids" in vision:  # (images, patches, 2): column and row, -1 where filled up
        shapes = (vision["image_position_ids"].amax(dim=1).flip(-1) + 1).tolist()
    for tile, (rows, columns) in enumerate(shapes):
        own = pixels[tile, : rows * columns]
        blocks = own.reshape(rows, columns, side, side, 3).permute(4, 0, 2, 1, 3)
        new = change(blocks.reshape(3, rows * side, columns * side)).reshape(blocks.shape)
        changed[tile, : rows * columns] = new.permute(1, 3, 2, 4, 0).reshape(own.shape)
    return changed


def _change_tiled(pixels: Tensor, image_sizes: Tensor, change: Change, processor: ImageProcessor) -> Tensor:
    """LLaVA-NeXT: tile 0 is the whole image made small, the others are the full-resolution picture row by row.

    The view acts on the full-resolution picture. What it added there, made small, is added to the overview, so that
    the overview shows the same noise on the same spots (averaged, as a camera would) and an identity changes nothing.
    """
    from transformers.image_processing_utils import select_best_resolution

    side = pixels.shape[-1]
    height, width = (int(value) for value in image_sizes[0])
    best_height, best_width = select_best_resolution((height, width), processor.image_grid_pinpoints)
    rows, columns = best_height // side, best_width // side
    tiles = pixels[0, 1 : 1 + rows * columns]
    if (
        len(tiles) != rows * columns or best_height % side or best_width % side
    ):  # one tile, or tiles that make no picture
        return _change_tiles(pixels, change)
    picture = tiles.reshape(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4).reshape(3, best_height, best_width)
    changed = change(picture)
    new_tiles = changed.reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
    scale = min(best_width / width, best_height / height)
    inner_height, inner_width = min(-int(-height * scale // 1), best_height), min(-int(-width * scale // 1), best_width)
    top, left = (best_height - inner_height) // 2, (best_width - inner_width) // 2
    added = (changed - picture)[None, :, top : top + inner_height, left : left + inner_width]
    overview = pixels[0, 0] + interpolate(added, size=(side, side), mode="bilinear", antialias=True)[0]
    return torch.cat([overview[None], new_tiles, pixels[0, 1 + rows * columns :]])[None]
