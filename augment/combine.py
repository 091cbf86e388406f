"""Views made of views: one drawn by weight (`mixture`), one per negative (`several`), one after another (`chain`).

`draw` makes all choices and returns what is left: a plain view, or a chain of plain views, which is what gets recorded
with a candidate. A mixture that is used without being drawn makes its choice from the generator's seed alone, so that
`on_image` and `on_tensor` choose the same view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from annotated_types import Len
from PIL import Image
from torch import Tensor

from augment.view import ActsOn, Description, Images, View, build, generator_for, uniform
from parallax.settings.ranges import NotNegative

Views = Annotated[Sequence[Description], Len(1)]


def _members(views: Views) -> tuple[View, ...]:
    return tuple(build(view) for view in views)


def _shown_on(images: Images, view: View) -> View:
    """What was drawn acts on the images that the view it was drawn from is to act on."""
    return view if images == "all" else replace(view, images=images)


@dataclass(frozen=True)
class Mixture(View):
    """One of its views, drawn with probability proportional to its weight."""

    name: ClassVar[str] = "mixture"
    acts_on: ClassVar[ActsOn] = "both"
    views: Views  # names, or {name: …, arguments}
    weights: Sequence[NotNegative] | None = None  # one per view, not all 0; None = equal

    def __post_init__(self) -> None:
        super().__post_init__()
        members = _members(self.views)
        object.__setattr__(self, "views", members)
        if self.weights is None:
            object.__setattr__(self, "weights", (1.0,) * len(members))
            return
        if len(self.weights) != len(members):
            raise ValueError(
                f"{self.name}: weights={self.weights!r} do not fit {len(members)} views; give one for each"
            )
        if math.fsum(self.weights) == 0:
            raise ValueError(
                f"{self.name}: weights={list(self.weights)} are all 0; give at least one view a weight above 0"
            )

    @property
    def is_random(self) -> bool:
        likely = self._likely
        return len(likely) > 1 or likely[0].is_random

    @property
    def _likely(self) -> list[View]:
        assert self.weights is not None
        return [build(view) for view, weight in zip(self.views, self.weights, strict=True) if weight > 0]

    def draw(self, generator: torch.Generator, index: int) -> View:
        assert self.weights is not None
        mark = uniform(generator, 0.0, math.fsum(self.weights))
        last = len(self.views) - 1
        for position, weight in enumerate(self.weights):
            if mark < weight:
                last = position
                break
            mark -= weight
        chosen = build(self.views[last]) if self.weights[last] > 0 else self._likely[-1]
        return _shown_on(self.images, chosen.draw(generator, index))

    def _chosen(self, generator: torch.Generator) -> View:
        return self.draw(generator_for(generator.initial_seed()), 0)

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return self._chosen(generator).on_image(image, generator)

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return self._chosen(generator).on_tensor(pixels, generator)


@dataclass(frozen=True)
class SticCorruption(Mixture):
    """STIC's corrupted image: low resolution or colour jitter, one as likely as the other."""

    name: ClassVar[str] = "stic_corruption"


@dataclass(frozen=True)
class Several(View):
    """A list of views, one for each negative: the k-th rejected answer comes from the k-th view.

    With more negatives than views the list starts again; the same view with another seed is another image.
    """

    name: ClassVar[str] = "several"
    one_view_each: ClassVar[bool] = True  # for each negative
    acts_on: ClassVar[ActsOn] = "both"
    views: Views  # names, or {name: …, arguments}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "views", _members(self.views))

    @property
    def is_random(self) -> bool:
        return any(build(view).is_random for view in self.views)

    def draw(self, generator: torch.Generator, index: int) -> View:
        return _shown_on(self.images, build(self.views[index % len(self.views)]).draw(generator, index))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        raise ValueError(f"{self.name} holds one view per negative; draw(generator, index) gives the view to use")

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        raise ValueError(f"{self.name} holds one view per negative; draw(generator, index) gives the view to use")


@dataclass(frozen=True)
class Chain(View):
    """Its views one after another. Those on the tensor come last, since the tensor is made from the image."""

    name: ClassVar[str] = "chain"
    acts_on: ClassVar[ActsOn] = "both"
    views: Views  # names, or {name: …, arguments}

    def __post_init__(self) -> None:
        super().__post_init__()
        members = _members(self.views)
        object.__setattr__(self, "views", members)
        kinds = [view.acts_on for view in members]
        if any(first == "tensor" and second == "image" for first, second in pairwise(kinds)):
            names = ", ".join(view.name for view in members)
            raise ValueError(
                f"{self.name}: in views=[{names}] a view of the image follows one of the tensor; put those of the tensor "
                "(diffusion) last"
            )

    @property
    def is_random(self) -> bool:
        return any(view.is_random for view in self.parts)

    @property
    def parts(self) -> tuple[View, ...]:
        """Its views, in the order they are applied."""
        return tuple(build(view) for view in self.views)

    def draw(self, generator: torch.Generator, index: int) -> View:
        return Chain(tuple(view.draw(generator, index) for view in self.parts), images=self.images)

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        for view in self.parts:
            image = view.on_image(image, generator)
        return image

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        for view in self.parts:
            pixels = view.on_tensor(pixels, generator)
        return pixels
