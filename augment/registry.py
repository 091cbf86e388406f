"""Views by name, and between views and the records that name them.

A `ViewSpec` (name, arguments, seed) determines the corrupted image completely; `view_from_spec` brings the view back.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

from augment.occlusion import NoImage
from augment.view import IMAGES, View, build
from parallax.records import ViewSpec, seed_for

for _module in walk_packages(
    [str(Path(__file__).parent)], "augment."
):  # importing registers: a new view needs its file alone
    if _module.name != __name__:
        import_module(_module.name)


def view_names() -> list[str]:
    """Names of all views, sorted; each has a file in conf/aug."""
    return sorted(View.registered)


def view_from_spec(spec: ViewSpec) -> View:
    """The view a spec names. Raises ValueError for unknown names and arguments out of range."""
    return build({"name": spec.name, **spec.params})


def spec_of(view: View, seed: int) -> ViewSpec:
    """The record of a view and its seed. Views without chance get seed 0, so that their candidates are shared."""
    return ViewSpec(name=view.name, params=view.params(), seed=seed if view.is_random or view.images == "one" else 0)


def views_of(spec: ViewSpec, count: int) -> list[ViewSpec]:
    """The view of each of `count` images: the view, with a seed of its own, or the identity where it leaves an image as it is."""
    images = spec.params.get("images", "all")
    if images not in IMAGES:
        raise ValueError(f"{spec.name}: images={images!r} is not known; give one of {', '.join(IMAGES)}")
    drawn = seed_for(spec.seed, "", "image") % count
    chosen = {"all": set(range(count)), "last": {count - 1}, "one": {drawn}}[images]
    seeds = [spec.seed if place == 0 else seed_for(spec.seed, "", "image", place) for place in range(count)]
    return [replace(spec, seed=seeds[place]) if place in chosen else ViewSpec() for place in range(count)]


def places_shown(spec: ViewSpec, count: int) -> list[int]:
    """Which of `count` images are in the prompt at all: all of them but for the view `no_image`."""
    if spec.name != NoImage.name:
        return list(range(count))
    return [place for place, own in enumerate(views_of(spec, count)) if own.name != NoImage.name]
