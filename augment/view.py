"""What a view is: a small, frozen description of how an image is corrupted, applied with a generator of its own.

A view holds no state and draws every random number from the generator it is given, never from the global ones. So one
(view, seed) is one corrupted image, whatever was computed before, in whichever process.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from parallax.settings.annotated_rules import word_of
from parallax.settings.build import build as build_part
from parallax.settings.choices import named_node
from parallax.settings.part import Part, rules_of
from parallax.settings.ranges import NamedIn


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def happens(generator: torch.Generator, probability: float) -> bool:
    """True with the given probability. Always takes one number from the generator, so later draws do not depend on it."""
    return uniform(generator, 0.0, 1.0) < probability


def order(generator: torch.Generator, count: int) -> list[int]:
    """The numbers 0 .. count - 1 shuffled."""
    return [int(item) for item in torch.randperm(count, generator=generator)]


ActsOn = Literal["image", "tensor", "both"]
Images = Literal["all", "last", "one"]
IMAGES = get_args(Images)


def generator_for(seed: int) -> torch.Generator:
    """A fresh CPU generator, so that the noise is the same whatever device the model is on."""
    return torch.Generator(device="cpu").manual_seed(seed)


@dataclass(frozen=True)
class View(Part, ABC):
    """Base of all views. A subclass is a frozen dataclass whose fields are plain data and which has a `name`.

    What a field may hold its annotation says; it is looked at when the view is made, and brought to one form, so that 1 and 1.0
    or a list and a tuple make the same view.

    `acts_on` says which of the two methods does something: `on_image` gets the upright RGB image before the processor,
    `on_tensor` the normalised and padded pixels after it. `images` says which of a prompt's images it acts on where there are
    several: all, the last, or one drawn by the seed.
    """

    name: ClassVar[str]  # how configs and records call it; the same as conf/aug/<name>.yaml
    acts_on: ClassVar[ActsOn] = "image"
    registered: ClassVar[dict[str, type[View]]] = {}  # every view by its name
    images: Images = field(default="all", kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("name")
        if name is None:
            return
        taken = View.registered.get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise TypeError(f"the view name {name!r} of {cls.__name__} is taken by {taken.__name__}; choose another")
        View.registered[name] = cls

    def __post_init__(self) -> None:
        for name, rule in rules_of(type(self)).items():
            object.__setattr__(self, name, rule.one_form(getattr(self, name)))

    @property
    def is_random(self) -> bool:
        """Whether the seed matters. Views without chance are always recorded with seed 0."""
        return True

    def params(self) -> dict[str, Any]:
        """All constructor arguments as plain data (numbers, strings, lists, dicts); `images` where it is not all of them."""
        given = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {name: value for name, value in given.items() if (name, value) != ("images", "all")}

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        """The corrupted RGB image; its size may differ. The given image is not changed."""
        return image

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The corrupted pixels. Shape: (3, H, W) -> (3, H, W), float32, normalised as the model wants them."""
        return pixels

    def draw(self, generator: torch.Generator, index: int) -> View:
        """The view without choices left, for the `index`-th (0-based) rejected answer. A plain view is its own draw."""
        return self


Description = Annotated[View | str | Mapping[str, Any], NamedIn("aug")]  # a view, its name, or {name: …, arguments}


def build(description: Description) -> View:
    """A view from plain data: a name, or a mapping with `name` and arguments of its own; what is not given is as in conf/aug.

    Raises ValueError in one sentence for an unknown name, unknown arguments or arguments out of range.
    """
    if isinstance(description, View):
        return description
    if isinstance(description, str):
        description = {"name": description}
    name = description.get("name") if isinstance(description, Mapping) else None
    if not name:
        raise ValueError(f"a view is given by its name or as {{name: …, arguments}}, got {description!r}")
    arguments = {key: value for key, value in description.items() if key != "name"}
    cls, said = View.registered.get(name), named_node("aug", name)
    if cls is None and said:  # a choice of conf/aug that is called otherwise than its class
        made = build_part({**said, **arguments}, "aug")
        assert isinstance(made, View)
        return made
    if cls is None:
        raise ValueError(f"there is no view {name!r}; the views are {', '.join(sorted(View.registered))}")
    known = sorted(
        (field.name for field in fields(cls)), key=lambda argument: argument == "images"
    )  # what all have comes last
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise ValueError(f"the view {cls.name!r} has no argument {', '.join(unknown)}; its arguments are: {allowed}")
    return cls(**{**{key: value for key, value in said.items() if key in known}, **arguments})


def _plain(value: object) -> Any:
    if isinstance(value, View):
        return {"name": value.name, **value.params()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return word_of(value) if isinstance(value, Enum) else value


@dataclass(frozen=True)
class Fixed(View):
    """Base of views without chance."""

    @property
    def is_random(self) -> bool:
        return False


@dataclass(frozen=True)
class Identity(Fixed):
    """The image as it is."""

    name: ClassVar[str] = "identity"
