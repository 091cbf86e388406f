"""Paints a scene: anti-aliased coloured shapes and a white sign with a number, on a light background, 96 x 96 pixels.

The masks of shapes and digits are drawn once and kept, so a picture is a handful of small array operations. Digits come
from a bitmap of our own, not from a font, so that every machine paints the same bytes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from datamodules.shapes.scene import CELL, SIDE, Scene

PAINT_VERSION = 1  # part of every picture's digest: raise it when the looks change
PALETTE = {
    "red": (214, 40, 40),
    "yellow": (245, 211, 20),
    "blue": (38, 84, 206),
    "green": (34, 150, 62),
    "purple": (140, 46, 160),
    "orange": (245, 130, 20),
}
SHADE = 14  # largest change of each colour channel from one thing to the next
_FINE = 8  # shapes are drawn this many times larger, then averaged

_DIGITS = (  # 3 x 5 pixels each, rows of bits
    (7, 5, 5, 5, 7), (2, 6, 2, 2, 7), (7, 1, 7, 4, 7), (7, 1, 7, 1, 7), (5, 5, 7, 1, 1),
    (7, 4, 7, 1, 7), (7, 4, 7, 5, 7), (7, 1, 1, 2, 2), (7, 5, 7, 5, 7), (7, 5, 7, 1, 7),
)  # fmt: skip


def render(scene: Scene) -> np.ndarray:
    """Paint a scene. Returns uint8 of shape (96, 96, 3), RGB."""
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = scene.background
    shades = np.random.Generator(np.random.PCG64(scene.paint_seed)).integers(-SHADE, SHADE + 1, (len(scene.things), 3))
    for thing, shade in zip(scene.things, shades, strict=True):
        mask = shape_mask(thing.shape, thing.size)
        top, left = _corner(thing.cell, thing.size, thing.size, thing.dx, thing.dy)
        _blend(canvas, mask, np.array(PALETTE[thing.colour], np.float32) + shade, top, left)
    plate, ink = sign_masks(scene.number)
    top, left = _corner(scene.sign_cell, plate.shape[0], plate.shape[1], 0, 0)
    _blend(canvas, plate, np.array((255, 255, 255), np.float32), top, left)
    _blend(canvas, ink, np.array((20, 20, 20), np.float32), top, left)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def picture(scene: Scene) -> Image.Image:
    """Paint a scene as a PIL image, RGB."""
    return Image.fromarray(render(scene))


@cache
def shape_mask(shape: str, size: int) -> np.ndarray:
    """How much of each pixel a shape covers. Shape: (size, size), float32 in [0, 1]."""
    wide = size * _FINE
    image = Image.new("L", (wide, wide), 0)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((0, 0, wide - 1, wide - 1), fill=255)
    else:
        pen.polygon([(x * (wide - 1), y * (wide - 1)) for x, y in _outline(shape)], fill=255)
    small = np.asarray(image, dtype=np.float32).reshape(size, _FINE, size, _FINE).mean(axis=(1, 3))
    return small / 255.0


@cache
def sign_masks(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The plate and the ink of a number sign. Shapes: (18, 24) both, float32 in {0, 1}."""
    plate = np.ones((18, 24), dtype=np.float32)
    ink = np.zeros_like(plate)
    ink[[0, -1], :] = 1.0
    ink[:, [0, -1]] = 1.0
    text = str(number)
    left = (24 - (8 * len(text) - 2)) // 2
    for position, digit in enumerate(text):
        rows = _DIGITS[int(digit)]
        bits = np.array([[(row >> (2 - column)) & 1 for column in range(3)] for row in rows], dtype=np.float32)
        start = left + 8 * position
        ink[4:14, start : start + 6] = np.kron(bits, np.ones((2, 2), np.float32))
    return plate, ink


def _corner(cell: int, height: int, width: int, dx: int, dy: int) -> tuple[int, int]:
    row, column = divmod(cell, 3)
    return row * CELL + (CELL - height) // 2 + dy, column * CELL + (CELL - width) // 2 + dx


def _blend(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, top: int, left: int) -> None:
    height, width = mask.shape
    patch = canvas[top : top + height, left : left + width]
    patch += mask[:, :, None] * (colour - patch)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners in the unit square, clockwise."""
    if shape == "square":
        return [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)]
    if shape == "triangle":
        return [(0.5, 0.02), (1.0, 0.95), (0.0, 0.95)]
    if shape == "diamond":
        return [(0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)]
    if shape == "cross":
        a, b = 0.33, 0.67
        return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]
    if shape == "star":
        turns = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 0.52, 0.22)
        return [(0.5 + r * np.sin(t), 0.53 - r * np.cos(t)) for r, t in zip(radii, turns, strict=True)]
    raise ValueError(
        f"no outline is known for the shape {shape!r}; the world has circle, star, square, triangle, diamond, cross"
    )
