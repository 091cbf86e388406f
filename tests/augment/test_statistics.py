"""How often and how strongly views act, counted over seeds."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from augment import (
    Affine,
    AutoAugment,
    CenterCrop,
    GaussianBlur,
    LowResolution,
    MocoSeva,
    MocoV2,
    Pad,
    RandAugment,
    RandomCrop,
    RandomFlip,
    Rotation,
    SimClr,
    build,
    contrastive,
    generator_for,
)
from augment.geometric import crop_box
from augment.view import happens, integer, order, uniform
from tests.parts import part

SEEDS = range(600)


def share(event: Callable[[int], bool]) -> float:
    return sum(event(seed) for seed in SEEDS) / len(SEEDS)


def about(probability: float) -> object:
    """Within four standard errors of a share over SEEDS."""
    return pytest.approx(probability, abs=4 * (probability * (1 - probability) / len(SEEDS)) ** 0.5 + 1e-9)


def two_colours(side: int = 8) -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, : side // 2, 0] = pixels[:, side // 2 :, 2] = 200
    return Image.fromarray(pixels, "RGB")


def test_the_flip_mirrors_half_of_the_time() -> None:
    image = two_colours()
    flipped = share(lambda seed: part(RandomFlip).on_image(image, generator_for(seed)).getpixel((0, 0)) == (0, 0, 200))
    assert flipped == about(0.5)
    assert share(lambda seed: RandomFlip(p=1).on_image(image, generator_for(seed)).getpixel((0, 0))[2] == 200) == 1  # type: ignore[index]


@pytest.mark.parametrize("name", ["invert", "posterize", "solarize", "equalize", "autocontrast", "sharpness"])
def test_single_operations_act_half_of_the_time(name: str) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (40, 40, 3)).astype(np.uint8)
    image = Image.fromarray(pixels, "RGB")
    view = build(name)
    assert share(lambda seed: view.on_image(image, generator_for(seed)).tobytes() != image.tobytes()) == about(0.5)


class Counted:
    """Counts which parts of a contrastive recipe are done, by watching the functions it calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, int] = {}
        for module, name in [
            (contrastive, "jitter"),
            (contrastive, "gaussian_blur"),
            (contrastive.tv, "horizontal_flip"),
            (contrastive.tv, "rgb_to_grayscale"),
        ]:
            monkeypatch.setattr(module, name, self._watch(name, getattr(module, name)))

    def _watch(self, name: str, function: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
        def watched(*args: object, **kwargs: object) -> Image.Image:
            self.calls[name] = self.calls.get(name, 0) + 1
            return function(*args, **kwargs)

        return watched

    def shares(self, view: contrastive._Contrastive) -> dict[str, float]:
        image = two_colours()
        for seed in SEEDS:
            view.on_image(image, generator_for(seed))
        parts = ("jitter", "rgb_to_grayscale", "gaussian_blur", "horizontal_flip")
        return {name: self.calls.get(name, 0) / len(SEEDS) for name in parts}


def test_moco_v2_jitters_80_and_blurs_50_and_greys_20_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counted(monkeypatch).shares(part(MocoV2, size=8))
    assert seen["jitter"] == about(0.8)
    assert seen["gaussian_blur"] == about(0.5)
    assert seen["rgb_to_grayscale"] == about(0.2)
    assert seen["horizontal_flip"] == about(0.5)


def test_sevas_moco_jitters_and_blurs_always(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counted(monkeypatch).shares(part(MocoSeva, size=8))
    assert seen["jitter"] == seen["gaussian_blur"] == 1
    assert seen["rgb_to_grayscale"] == about(0.2)
    assert seen["horizontal_flip"] == about(0.5)


def test_simclr_never_blurs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counted(monkeypatch).shares(part(SimClr, size=8))
    assert seen["gaussian_blur"] == 0 and seen["jitter"] == 1


def test_random_resized_crops_keep_the_share_of_the_area_and_the_ratio_they_say() -> None:
    boxes = [crop_box(400, 300, (0.36, 0.64), (3 / 4, 4 / 3), generator_for(seed)) for seed in SEEDS]
    areas = np.array([h * w / 120_000 for _, _, h, w in boxes])
    ratios = np.array([w / h for _, _, h, w in boxes])
    assert 0.355 < areas.min() < 0.38 and 0.62 < areas.max() < 0.645
    assert areas.mean() == pytest.approx(0.5, abs=0.01)
    assert 0.74 < ratios.min() < 0.78 and 1.28 < ratios.max() < 1.35
    assert all(top >= 0 and left >= 0 and top + h <= 300 and left + w <= 400 for top, left, h, w in boxes)
    assert len({box[:2] for box in boxes}) > 300


def test_a_crop_of_a_thin_image_falls_back_to_its_middle() -> None:
    assert crop_box(20, 10_000, (0.36, 0.64), (3 / 4, 4 / 3), generator_for(0)) == (4986, 0, 27, 20)
    assert crop_box(9000, 30, (0.36, 0.64), (3 / 4, 4 / 3), generator_for(0)) == (0, 4480, 30, 40)


@pytest.mark.parametrize("name", ["random_resized_crop", "moco_seva", "moco_v2", "byol", "simclr", "random_crop"])
def test_crops_are_224_pixels_square(name: str) -> None:
    for size in ((300, 260), (50, 40)):
        assert build(name).on_image(Image.new("RGB", size), generator_for(0)).size == (224, 224)


def test_the_centre_crop_is_the_middle_128_pixels() -> None:
    image = Image.fromarray(np.arange(200 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 200, 3), "RGB")
    seen = part(CenterCrop).on_image(image, generator_for(0))
    assert seen.tobytes() == image.crop((36, 36, 164, 164)).tobytes()


def test_a_crop_larger_than_the_image_shows_all_of_it_on_black() -> None:
    for view in (RandomCrop(size=10), CenterCrop(size=10)):
        seen = np.asarray(view.on_image(Image.new("RGB", (4, 6), (255, 255, 255)), generator_for(0)))
        assert seen.shape == (10, 10, 3) and int((seen == 255).all(-1).sum()) == 24
        if isinstance(view, CenterCrop):
            assert bool((seen[2:8, 3:7] == 255).all())


def test_the_frame_is_50_black_pixels_on_every_side() -> None:
    seen = np.asarray(part(Pad).on_image(Image.new("RGB", (3, 2), (9, 9, 9)), generator_for(0)))
    assert seen.shape == (102, 103, 3) and seen.sum() == 9 * 3 * 6
    assert bool((seen[50:52, 50:53] == 9).all())


@pytest.mark.parametrize(
    "size, expected", [((400, 200), (40, 20)), ((90, 270), (20, 60)), ((20, 10_000), (20, 10_000)), ((7, 5), (7, 5))]
)
def test_low_resolution_shrinks_the_shortest_side_to_20_and_never_enlarges(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert part(LowResolution).on_image(Image.new("RGB", size), generator_for(0)).size == expected


def test_rotation_by_a_set_angle_turns_counter_clockwise() -> None:
    seen = Rotation(degrees=(90, 90)).on_image(two_colours(9), generator_for(0))
    assert seen.getpixel((4, 8)) == (200, 0, 0) and seen.getpixel((4, 0)) == (0, 0, 200)


def test_the_affine_view_shrinks_the_content() -> None:
    white = Image.new("RGB", (100, 100), (255, 255, 255))
    for seed in range(20):
        seen = part(Affine, translate=(0, 0)).on_image(white, generator_for(seed))
        assert 0.24 < np.asarray(seen).mean() / 255 < 0.57  # 0.5² to 0.75² of the area


def test_blur_radii_spread_over_their_range() -> None:
    image = two_colours(64)

    def edge(view: GaussianBlur, seed: int) -> int:
        return int(np.asarray(view.on_image(image, generator_for(seed)))[32, 31, 0])

    edges = [edge(part(GaussianBlur), seed) for seed in range(200)]
    sharp, soft = (edge(GaussianBlur(radius=(radius, radius)), 0) for radius in (0.1, 2.0))
    assert min(edges) >= soft and max(edges) <= sharp and len(set(edges)) > 20


def test_jitter_strength_is_what_the_papers_say() -> None:
    """A grey image has no hue and no contrast, so brightness alone shows: factors from 0.5 to 1.5 for STIC."""
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    levels = [build("stic_jitter").on_image(grey, generator_for(s)).getpixel((0, 0))[0] for s in SEEDS]  # type: ignore[index]
    assert 50 <= min(levels) < 54 and 146 < max(levels) <= 150


def test_auto_and_rand_augment_vary_over_seeds() -> None:
    image = two_colours(32)
    for view in (part(AutoAugment), part(RandAugment)):
        assert len({view.on_image(image, generator_for(seed)).tobytes() for seed in range(60)}) > 15


def test_draws_are_uniform_and_in_range() -> None:
    generator = generator_for(0)
    numbers = [uniform(generator, -2, 3) for _ in range(2000)]
    assert -2 <= min(numbers) < -1.98 and 2.98 < max(numbers) < 3 and np.mean(numbers) == pytest.approx(0.5, abs=0.15)
    assert {integer(generator, 3, 5) for _ in range(100)} == {3, 4, 5}
    assert not any(happens(generator, 0.0) for _ in range(100)) and all(happens(generator, 1.0) for _ in range(100))
    assert len({tuple(order(generator, 4)) for _ in range(300)}) == 24
