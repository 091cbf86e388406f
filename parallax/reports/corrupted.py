"""Pictures for reports: the clean image, and the image as the rejected side was shown it, made again from its view.

Nothing was stored but the view's name, parameters and seed; that is enough (`parallax.records.ViewSpec`).

What a run's pairs and answers are about, found again through the sources its configuration names: images and questions.

A run folder may come from anywhere. Its configuration is data: only sources are made of it, and only those that the check of a
configuration would let pass (`parallax.settings.build`).
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datamodules.source import as_source
from parallax.records import Conversation, ImageRef, PreferencePair, Response, Sample, ViewSpec
from parallax.records.images import SideBySide, side_by_side, together
from parallax.reports.model_eye import ModelEye
from parallax.settings.build import build
from parallax.settings.check import part_problems
from parallax.settings.targets import UnknownTarget

if TYPE_CHECKING:
    from PIL import Image

OTHER_IMAGES = "on the rejected side"  # what the data itself shows there
FEW_COLOURS = (
    256  # drawings at their own size have fewer; shrunk, enlarged or noisy ones have more, and JPEG is smaller there
)


def view_of(response: Response) -> ViewSpec | None:
    """The view a response was given under, from its provenance; None when it does not say (text from a file)."""
    view = response.provenance.get("view")
    if isinstance(view, ViewSpec):
        return view
    if isinstance(view, Mapping) and "name" in view:
        return ViewSpec(str(view["name"]), dict(view.get("params") or {}), int(view.get("seed") or 0))
    return None


def seen_through(image: Image.Image, spec: ViewSpec, eye: ModelEye | None = None) -> Image.Image:
    """The image under a view, as RGB, at the size and with the normalisation of `eye` (CLIP's, 336 pixels)."""
    from augment.registry import view_from_spec

    return (eye or ModelEye()).sees(image, view_from_spec(spec), spec.seed)


def looked_at(image: ImageRef, spec: ViewSpec | None, eye: ModelEye | None = None) -> Image.Image:
    """An image, or several side by side, as they are or under a view: each image as the view shows it."""
    from augment.registry import views_of

    if spec is None:
        return image.load()
    parts = image.images if isinstance(image, SideBySide) else (image,)
    views = views_of(spec, len(parts)) if len(parts) > 1 else [spec]
    shown = [(part.load(), view) for part, view in zip(parts, views, strict=True)]
    seen = [seen_through(picture, view, eye) for picture, view in shown]
    return seen[0] if len(seen) == 1 else side_by_side(seen)


def data_uri(image: Image.Image, side: int = 224) -> str:
    """The image as a small picture inside the page."""
    data, kind = small_bytes(image, side)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def small_bytes(image: Image.Image, side: int = 224) -> tuple[bytes, str]:
    """A small copy and its kind: `jpeg`, or `png` where that is smaller (drawn scenes)."""
    small = _at_most(image.convert("RGB"), side)
    formats: dict[str, dict[str, Any]] = {"JPEG": {"quality": 82, "optimize": True}}
    if small.getcolors(FEW_COLOURS) is not None:
        formats["PNG"] = {"optimize": True}
    best, kind = b"", ""
    for name, options in formats.items():
        buffer = io.BytesIO()
        small.save(buffer, name, **options)
        if not best or buffer.tell() < len(best):
            best, kind = buffer.getvalue(), name.lower()
    return best, kind


def _at_most(image: Image.Image, side: int) -> Image.Image:
    """Shrunk so that no side is longer than `side`; never enlarged."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What one sample is about."""

    image: ImageRef  # or several, side by side
    question: str
    images: tuple[ImageRef, ...] = ()  # each of them, and those of a pair's rejected side


def evaluation_subjects(config: Mapping[str, Any]) -> dict[str, Subject]:
    """Sample id → subject, for the samples of the evaluation suites. Suites whose samples are not to be had are left out."""
    found: dict[str, Subject] = {}
    for name, suite in ((config.get("evaluation") or {}).get("suites") or {}).items():
        node = (suite or {}).get("samples")
        found |= _subjects(node, "samples", f"evaluation suite {name}") if node else {}
    return found


def pair_subjects(config: Mapping[str, Any], stage: str = "") -> dict[str, Subject]:
    """Sample id → subject, for the samples pairs are built from: of the stage's own `data` where it has one."""
    own = (config.get("stages") or {}).get(stage.rpartition("/")[2]) or {}
    return _subjects(own.get("data") or config.get("data"), "data", "the data")


def _subjects(node: Any, key: str, what: str) -> dict[str, Subject]:
    try:
        for sentence in part_problems(node, key):
            raise UnknownTarget(sentence)
        made = build(node, key)
        items: Iterable[Sample | PreferencePair] = as_source(made).pairs or made
        return dict(_subject(item) for item in items)
    except UnknownTarget as error:
        log.warning("no pictures of %s: its configuration would not pass the check (%s)", what, error)
    except Exception as error:  # a source that is gone must not cost the page
        log.warning("no pictures of %s: %s", what, " ".join(str(error).split())[:300])
    return {}


def _subject(item: Sample | PreferencePair) -> tuple[str, Subject]:
    """Of a sample, or of a pair that came ready-made."""
    if isinstance(item, PreferencePair):
        return item.sample_id, _about((*item.images, *item.rejected_images), item.conversation)
    return item.id, _about(item.images, item.conversation())


def _about(images: tuple[ImageRef, ...], asked: Conversation) -> Subject:
    return Subject(together(asked.images), asked.readable(), images)
