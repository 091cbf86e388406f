"""Every view: one seed is one image, the generator given is the only source of chance, odd images survive."""

import random
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from augment import View, build, generator_for, spec_of, view_from_spec, view_names
from parallax.records import ViewSpec, fingerprint

SINGLE = [name for name in view_names() if name != "several"]  # several has to be drawn first
RANDOM = [name for name in SINGLE if build(name).is_random]
FIXED = [name for name in SINGLE if not build(name).is_random]


def photograph(width: int = 180, height: int = 120) -> Image.Image:
    """Something with edges, gradients and texture in every channel."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(0).uniform(0, 60, (height, width))
    channels = [255 * x, 255 * y, 80 + 60 * np.sin(9 * x) + noise]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8), "RGB")


def corrupted(view: View, seed: int, image: Image.Image | None = None) -> tuple[Image.Image, Tensor]:
    """What the model would get to see: the view on the image, then on the pixels."""
    generator = generator_for(seed)
    seen = view.on_image(image or photograph(), generator)
    pixels = torch.from_numpy(np.asarray(seen.resize((32, 32)), dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    return seen, view.on_tensor(pixels, generator)


def same(a: tuple[Image.Image, Tensor], b: tuple[Image.Image, Tensor]) -> bool:
    return a[0].size == b[0].size and a[0].tobytes() == b[0].tobytes() and torch.equal(a[1], b[1])


@pytest.mark.parametrize("name", SINGLE)
def test_the_same_seed_gives_the_same_image_whatever_came_before(name: str) -> None:
    view = build(name)
    first = corrupted(view, 7)
    for other in range(3):
        corrupted(view, other)
    torch.rand(5), random.random(), np.random.rand()
    assert same(first, corrupted(build(name), 7))


@pytest.mark.parametrize("name", RANDOM)
def test_other_seeds_give_other_images(name: str) -> None:
    view = build(name)
    images = {
        fingerprint([seen.tobytes().hex(), pixels.tolist()]) for seen, pixels in (corrupted(view, s) for s in range(12))
    }
    assert len(images) >= 2


@pytest.mark.parametrize("name", FIXED)
def test_views_without_chance_ignore_the_seed_and_are_recorded_with_seed_0(name: str) -> None:
    view = build(name)
    assert all(same(corrupted(view, 0), corrupted(view, seed)) for seed in range(1, 4))
    assert spec_of(view, 99).seed == 0


@pytest.mark.parametrize("name", SINGLE)
def test_global_random_state_is_left_alone(name: str) -> None:
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    corrupted(build(name), 11)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]


@pytest.mark.parametrize("name", SINGLE)
def test_global_seeds_do_not_reach_the_view(name: str) -> None:
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    first = corrupted(build(name), 5)
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    assert same(first, corrupted(build(name), 5))


@pytest.mark.parametrize("name", SINGLE)
def test_the_given_image_and_pixels_are_not_changed(name: str) -> None:
    image, pixels = photograph(), torch.zeros(3, 16, 16)
    for seed in range(4):
        build(name).on_image(image, generator_for(seed))
        build(name).on_tensor(pixels, generator_for(seed))
    assert image.tobytes() == photograph().tobytes()
    assert torch.equal(pixels, torch.zeros(3, 16, 16))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1), (200, 10, 30)),
        Image.new("RGB", (2, 2), (0, 0, 0)),
        Image.new("RGB", (20, 10_000), (7, 7, 7)),
        Image.new("RGB", (3_000, 1), (255, 255, 255)),
        photograph(31, 57).convert("L").convert("RGB"),
        photograph(640, 131),
    ],
    ids=["one_pixel", "two_by_two", "tall_and_thin", "one_row", "greyscale", "wide"],
)
def test_odd_images_come_out_as_rgb_images(name: str, image: Image.Image) -> None:
    view = build(name)
    for seed in range(3):
        seen = view.on_image(image, generator_for(seed))
        assert isinstance(seen, Image.Image) and seen.mode == "RGB" and min(seen.size) >= 1


@pytest.mark.parametrize("name", SINGLE)
def test_pixels_keep_shape_and_type(name: str) -> None:
    pixels = torch.linspace(-2, 2, 3 * 20 * 28).reshape(3, 20, 28)
    seen = build(name).on_tensor(pixels, generator_for(1))
    assert seen.shape == pixels.shape and seen.dtype == torch.float32 and bool(torch.isfinite(seen).all())


@pytest.mark.parametrize("name", SINGLE)
def test_a_view_changes_only_what_it_says_it_acts_on(name: str) -> None:
    view, pixels = build(name), torch.ones(3, 8, 8)
    for seed in range(6):
        if view.acts_on == "image":
            assert torch.equal(view.on_tensor(pixels, generator_for(seed)), pixels)
        if view.acts_on == "tensor":
            assert view.on_image(photograph(), generator_for(seed)).tobytes() == photograph().tobytes()


@pytest.mark.parametrize("name", view_names())
def test_specs_bring_the_same_view_back_and_are_plain_data(name: str) -> None:
    view = build(name)
    spec = spec_of(view, 3)
    assert view_from_spec(spec) == view
    assert spec_of(view_from_spec(spec), 3) == spec
    assert len(fingerprint({"name": spec.name, "params": dict(spec.params)})) == 32


def test_whole_numbers_and_lists_from_a_config_make_the_same_spec() -> None:
    one = build({"name": "random_resized_crop", "scale": [0.5, 1], "size": 224})
    other = build({"name": "random_resized_crop", "scale": (0.5, 1.0), "size": 224})
    assert one == other and fingerprint(one.params()) == fingerprint(other.params())


def test_views_cannot_be_changed_after_they_are_made() -> None:
    with pytest.raises(FrozenInstanceError):
        build("diffusion").noise_steps = 3  # type: ignore[attr-defined]


WRONG = [
    ({"name": "diffusion", "noise_steps": 1000}, r"Diffusion: noise_steps=1000 .*an integer from 0 to 999"),
    ({"name": "diffusion", "noise_steps": -1}, "from 0 to 999"),
    ({"name": "diffusion", "noise_steps": 2.5}, "an integer"),
    ({"name": "diffusion", "noise_steps": True}, "an integer"),
    ({"name": "diffusion", "noise_steps": "many"}, "an integer"),
    ({"name": "diffusion", "noise_steps": float("nan")}, "an integer"),
    ({"name": "diffusion", "noise_steps": float("inf")}, "an integer"),
    ({"name": "random_flip", "p": 1.2}, "number from 0 to 1"),
    ({"name": "random_flip", "p": float("nan")}, "number from 0 to 1"),
    ({"name": "random_resized_crop", "scale": [0.7, 0.4]}, "smallest first"),
    ({"name": "random_resized_crop", "scale": 0.5}, "a list of 2 items"),
    ({"name": "random_resized_crop", "size": 0}, "from 1 to 4096"),
    ({"name": "center_crop", "size": 0}, "from 1 to 4096"),
    ({"name": "random_crop", "size": 5000}, "from 1 to 4096"),
    ({"name": "pad", "padding": -1}, "from 0 to 4096"),
    ({"name": "perspective", "distortion_scale": 2}, "from 0 to 1"),
    ({"name": "rotation", "degrees": [0, 400]}, "from -360 to 360"),
    ({"name": "affine", "translate": 0.1}, "a list of 2 items"),
    ({"name": "affine", "scale": [0, 1]}, "from 0.01 to 10"),
    ({"name": "color_jitter", "hue": 0.6}, "from 0 to 0.5"),
    ({"name": "stic_jitter", "brightness": -1}, "from 0 to 10"),
    ({"name": "grayscale", "p": 2}, "from 0 to 1"),
    ({"name": "invert", "p": -1}, "from 0 to 1"),
    ({"name": "posterize", "bits": 9}, "from 1 to 8"),
    ({"name": "solarize", "threshold": 300}, "from 0 to 256"),
    ({"name": "sharpness", "factor": 11}, "from 0 to 10"),
    ({"name": "gaussian_blur", "radius": [0, 101]}, "from 0 to 100"),
    ({"name": "autoaugment", "policy": "coco"}, "imagenet, cifar10, svhn"),
    ({"name": "randaugment", "magnitude": 31}, "from 0 to 30"),
    ({"name": "moco_v2", "blur_p": 1.5}, "from 0 to 1"),
    ({"name": "low_resolution", "side": 0}, "from 1 to 4096"),
    ({"name": "mixture", "views": []}, "a list of 1 or more"),
    ({"name": "mixture", "views": "diffusion"}, "a list of 1 or more"),
    ({"name": "mixture", "weights": [1]}, "do not fit 2 views"),
    ({"name": "mixture", "weights": [0, 0]}, "all 0"),
    ({"name": "chain", "views": ["diffusion", "pad"]}, "follows one of the tensor"),
    ({"name": "several", "views": [3]}, "the name of a choice of aug"),
    ({"name": "difusion"}, "no view 'difusion'; the views are affine"),
    ({"name": "diffusion", "steps": 3}, "no argument steps; its arguments are: noise_steps"),
    ({"name": "identity", "p": 3}, "its arguments are: images"),
    ({"noise_steps": 3}, "by its name"),
]  # fmt: skip


@pytest.mark.parametrize("description, message", WRONG, ids=[str(item[0]) for item in WRONG])
def test_wrong_arguments_are_refused_with_what_is_allowed(description: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(description)


def test_a_spec_with_unknown_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="no argument strength"):
        view_from_spec(ViewSpec("diffusion", {"strength": 3}, 0))


def test_two_views_cannot_share_a_name() -> None:
    with pytest.raises(TypeError, match="'diffusion' of Imposter is taken by Diffusion"):
        type("Imposter", (View,), {"name": "diffusion"})
