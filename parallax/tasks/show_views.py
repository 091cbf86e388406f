"""The task `show_views`: every view of one image on a labelled contact sheet (PNG).

    python run.py task=show_views                          # a scene of the built-in world
    python run.py task=show_views task.image=photo.jpg     # a photograph
    python run.py task=show_views aug=mixture              # the configured view comes second, after the clean image

Views are shown as the configured model sees them: noise on its normalised pixels and at its processor's size, or at the size
of the pictures where these are smaller (shrinking a noisy picture would average the noise away).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval
from omegaconf import DictConfig, OmegaConf

from augment import build as view_of
from augment import view_names
from augment.combine import Chain, Mixture, Several
from augment.view import generator_for
from parallax.records.images import FileImage
from parallax.records.plain_text import say
from parallax.reports.model_eye import ModelEye
from parallax.settings.build import build
from parallax.settings.groups import Task
from parallax.settings.ranges import Natural

if TYPE_CHECKING:
    from PIL import Image

    from augment.view import View

SECTIONS = {  # module of augment/ -> heading; views of modules that are not listed here come last
    "geometric": "Where things are",
    "colour": "Colours and detail",
    "low_resolution": "Colours and detail",
    "auto": "Recipes",
    "contrastive": "Recipes",
    "combine": "Combined (some draws)",
}
DRAWS = 4  # pictures of a mixture or a list of views
TRIES = 32  # seeds tried until a view that acts only sometimes acts


@dataclass(frozen=True)
class Keys(Task):
    image: str | None
    index: Natural
    noise_steps: Sequence[Annotated[int, Interval(ge=0, le=999)]]
    side: Annotated[int, Interval(ge=32, le=1024)]
    columns: Annotated[int, Interval(ge=1, le=20)]
    output: str | None


def run(cfg: DictConfig) -> dict[str, Any]:
    """Write the sheet as `cfg.task` says. Returns the path of the PNG and the names of the views on it."""
    task = cfg.task
    image, name = _image(cfg)
    eye = ModelEye.of(str(cfg.model.path))
    eye = replace(eye, side=min(eye.side, int(task.side)))
    configured = build(_plain(cfg.aug), "aug")
    sections = view_pictures(image, eye, list(task.noise_steps), configured, int(cfg.seed))
    title = f"{name}, {image.width} x {image.height} pixels, as seen by {cfg.model.name}, noise at {eye.side} pixels"
    page = contact_sheet(title, sections, side=int(task.side), columns=int(task.columns))
    output = Path(task.output) if task.output else Path(cfg.paths.output_dir) / "views.png"
    output.parent.mkdir(parents=True, exist_ok=True)
    page.save(output, format="PNG")
    say(f"{sum(map(len, sections.values()))} views of {name}: {output}")
    return {"sheet": str(output), "views": [picture.label for shown in sections.values() for picture in shown]}


def view_pictures(
    image: Image.Image, eye: ModelEye, noise_steps: list[int], configured: View, seed: int
) -> dict[str, list[Picture]]:
    """All pictures of the sheet: heading -> pictures. Every registered view occurs at least once."""

    def shown(view: View, label: str) -> Picture:
        return Picture(eye.sees(image, view, _telling_seed(view, image, seed)), label)

    noise = [view_of({"name": "diffusion", "noise_steps": step}) for step in noise_steps]
    sections = {
        "Clean, and as configured": [shown(view_of("identity"), "identity"), *_drawn(configured, seed, shown)],
        "Diffusion noise, by step of 1000": [shown(view, label_of(view)) for view in noise],
    }
    for heading in dict.fromkeys([*SECTIONS.values(), "More"]):
        sections[heading] = []
    for name in view_names():
        view = view_of(name)
        if name not in {"identity", "diffusion"}:
            heading = SECTIONS.get(type(view).__module__.rpartition(".")[2], "More")
            sections[heading] += _drawn(view, seed, shown)
    return sections


def label_of(view: View) -> str:
    """Name and what distinguishes it: `diffusion noise_steps=500`; recipes with many arguments by their name alone."""
    if isinstance(view, Chain):
        return "chain " + " + ".join(label_of(part) for part in view.parts)
    params = view.params()
    if len(params) > 4:
        return view.name
    return " ".join([view.name, *(f"{key}={_short(value)}" for key, value in params.items() if value != 0)])


def _drawn(view: View, seed: int, shown: Callable[[View, str], Picture]) -> list[Picture]:
    """The view itself, or the different views it draws for the first few rejected answers."""
    if not isinstance(view, (Mixture, Several)):
        return [shown(view, label_of(view))]
    drawn = [view.draw(generator_for(seed + index), index) for index in range(8 * DRAWS)]
    different = list(dict.fromkeys(drawn))[:DRAWS]
    return [shown(leaf, f"{view.name}: {label_of(leaf)}") for leaf in different]


def _telling_seed(view: View, image: Image.Image, seed: int) -> int:
    """The first seed from `seed` on under which the view does anything; some act only half of the time."""
    if view.acts_on == "tensor":
        return seed
    for candidate in range(seed, seed + TRIES):
        seen = view.on_image(image, generator_for(candidate))
        if seen.size != image.size or seen.tobytes() != image.tobytes():
            return candidate
    return seed


def _short(value: object) -> str:
    if isinstance(value, list):
        return "-".join(_short(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _image(cfg: DictConfig) -> tuple[Image.Image, str]:
    """The image to show and its name. Raises `BadImage` for a file that cannot be read."""
    if cfg.task.image:
        path = Path(cfg.task.image).expanduser()
        return FileImage(str(path.parent), path.name).load(), path.name
    source = build(_plain(cfg.data), "data")
    index = int(cfg.task.index)
    if index >= len(source):
        raise ValueError(
            f"task.index={index} is not among the {len(source)} images of the data; give 0 to {len(source) - 1}"
        )
    reference = source[index].image
    return reference.load(), reference.describe()


def _plain(node: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


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
