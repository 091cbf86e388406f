"""Pictures for reports: the clean image, and the image as the rejected side was shown it, made again from its view.

Nothing was stored but the view's name, parameters and seed; that is enough (`parallax.records.ViewSpec`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parallax.records import ImageRef, Response, ViewSpec
from parallax.records.images import SideBySide, side_by_side
from parallax.reports.model_eye import ModelEye

if TYPE_CHECKING:
    from PIL import Image

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
