"""Contact sheet: many small pictures on one page, in named sections, each with a label below it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

PAPER, INK, FRAME = (255, 255, 255), (32, 32, 32), (214, 214, 214)
GAP, LINES = 12, 2  # pixels between pictures; lines of a label


@dataclass(frozen=True)
class Picture:
    """One picture and what is written below it."""

    image: Image.Image
    label: str


def contact_sheet(
    title: str, sections: Mapping[str, Sequence[Picture]], side: int = 224, columns: int = 6
) -> Image.Image:
    """Draw the page.

    Arguments:
        title: first line of the page.
        sections: heading -> its pictures, in this order; empty sections are left out.
        side: pixels of the square that each picture is fitted into, aspect kept. Smaller pictures are enlarged without
            smoothing, so that their pixels can be told apart.
        columns: pictures per row.
    """
    from PIL import Image, ImageDraw, ImageFont

    size = max(11, side // 15)  # of the labels, in pixels
    small, large = ImageFont.load_default(size), ImageFont.load_default(round(1.4 * size))
    assert isinstance(small, ImageFont.FreeTypeFont) and isinstance(large, ImageFont.FreeTypeFont)
    line, heading = round(1.25 * size), round(2.4 * size)
    cell_width, cell_height = side + GAP, side + LINES * line + GAP
    filled = {name: pictures for name, pictures in sections.items() if pictures}
    rows = sum(-(-len(pictures) // columns) for pictures in filled.values())
    width = columns * cell_width + GAP
    page = Image.new("RGB", (width, heading + len(filled) * heading + rows * cell_height + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP // 2), title, fill=INK, font=large)
    top = heading
    for name, pictures in filled.items():
        draw.line((GAP, top + 2, width - GAP, top + 2), fill=FRAME)
        draw.text((GAP, top + GAP // 2), name, fill=INK, font=large)
        top += heading
        for number, picture in enumerate(pictures):
            left, upper = GAP + number % columns * cell_width, top + number // columns * cell_height
            draw.rectangle((left - 1, upper - 1, left + side, upper + side), outline=FRAME)
            page.paste(*_fitted(picture.image, left, upper, side))
            characters = max(8, int(side / small.getlength("n")))
            for row, text in enumerate(textwrap.wrap(picture.label, characters, max_lines=LINES, placeholder=" …")):
                draw.text((left, upper + side + 2 + row * line), text, fill=INK, font=small)
        top += -(-len(pictures) // columns) * cell_height
    return page


def _fitted(image: Image.Image, left: int, upper: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The image in a square of `side` pixels, and where its corner goes so that it sits in the middle."""
    from PIL import Image

    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    fitted = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    return fitted, (left + (side - size[0]) // 2, upper + (side - size[1]) // 2)
