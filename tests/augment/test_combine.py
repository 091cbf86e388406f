"""Mixtures draw by weight, lists give one view per negative, chains keep the order."""

from collections import Counter

import pytest
import torch
from PIL import Image

from augment import (
    Chain,
    Diffusion,
    Identity,
    Mixture,
    Pad,
    RandomFlip,
    Several,
    SticCorruption,
    View,
    build,
    generator_for,
    spec_of,
    view_from_spec,
)
from tests.parts import part


def test_a_mixture_draws_by_weight() -> None:
    mixture = Mixture(views=["identity", "pad", "diffusion"], weights=[1, 3, 0])
    drawn = Counter(mixture.draw(generator_for(seed), 0).name for seed in range(1000))
    assert set(drawn) == {"identity", "pad"}
    assert drawn["pad"] / 1000 == pytest.approx(0.75, abs=0.055)


def test_stic_corrupts_by_resolution_or_colour_equally() -> None:
    drawn = Counter(part(SticCorruption).draw(generator_for(seed), 0).name for seed in range(1000))
    assert set(drawn) == {"low_resolution", "stic_jitter"}
    assert drawn["stic_jitter"] / 1000 == pytest.approx(0.5, abs=0.065)


def test_a_mixture_makes_one_choice_for_image_and_pixels() -> None:
    """Used without being drawn: either the frame or the noise, never both and never none."""
    mixture = Mixture(views=[Pad(1), Diffusion(500)])
    image, pixels = Image.new("RGB", (4, 4)), torch.zeros(3, 4, 4)
    seen: Counter[tuple[bool, bool]] = Counter()
    for seed in range(60):
        framed = mixture.on_image(image, generator_for(seed)).size == (6, 6)
        noisy = bool(mixture.on_tensor(pixels, generator_for(seed)).any())
        seen[framed, noisy] += 1
    assert set(seen) == {(True, False), (False, True)}


def test_several_gives_the_kth_view_to_the_kth_negative_and_then_starts_again() -> None:
    several = Several(views=[{"name": "diffusion", "noise_steps": 300}, part(Pad), "random_flip"])
    views = [several.draw(generator_for(0), index) for index in range(4)]
    assert views == [Diffusion(300), part(Pad), part(RandomFlip), Diffusion(300)]


def test_several_has_to_be_drawn_before_it_is_used() -> None:
    with pytest.raises(ValueError, match=r"one view per negative; draw\(generator, index\)"):
        part(Several).on_image(Image.new("RGB", (4, 4)), generator_for(0))
    with pytest.raises(ValueError, match="one view per negative"):
        part(Several).on_tensor(torch.zeros(3, 4, 4), generator_for(0))


def test_a_chain_applies_its_views_in_order() -> None:
    image = Image.new("RGB", (4, 4), (255, 255, 255))
    framed_last = Chain([{"name": "center_crop", "size": 2}, {"name": "pad", "padding": 1}])
    framed_first = Chain([{"name": "pad", "padding": 1}, {"name": "center_crop", "size": 2}])
    assert framed_last.on_image(image, generator_for(0)).getpixel((0, 0)) == (0, 0, 0)
    assert framed_first.on_image(image, generator_for(0)).getpixel((0, 0)) == (255, 255, 255)


def test_a_chain_acts_on_image_and_pixels() -> None:
    chain = Chain([Pad(1), Diffusion(500)])
    assert chain.on_image(Image.new("RGB", (4, 4)), generator_for(0)).size == (6, 6)
    assert bool(chain.on_tensor(torch.zeros(3, 4, 4), generator_for(0)).any())


def test_drawing_resolves_every_choice_in_a_nest() -> None:
    nest = Several([Chain([Mixture(["pad", "grayscale"]), Diffusion(300)]), Mixture([Mixture(["pad"]), "invert"])])
    for seed in range(20):
        first, second = (nest.draw(generator_for(seed), index) for index in (0, 1))
        assert isinstance(first, Chain) and first.views[0].name in {"pad", "grayscale"}  # type: ignore[union-attr]
        assert second.name in {"pad", "invert"}


def test_nests_survive_being_recorded() -> None:
    nest = Several([Chain([Mixture(["pad", "grayscale"], [2, 1]), Diffusion(300)]), "stic_corruption"])
    spec = spec_of(nest, 5)
    assert view_from_spec(spec) == nest and spec.seed == 5


def test_nests_of_views_without_chance_are_recorded_with_seed_0() -> None:
    for view in (Chain(["pad", "grayscale"]), Mixture(["pad", "diffusion"], [1, 0]), Several(["identity"])):
        assert spec_of(view, 5).seed == 0
    for view in (Chain(["pad", "diffusion"]), Mixture(["pad", "identity"]), Several(["identity", "moco_v2"])):
        assert spec_of(view, 5).seed == 5


def test_views_in_a_list_may_be_names_descriptions_or_views() -> None:
    views: list[View | str | dict[str, object]] = [
        "diffusion",
        {"name": "diffusion", "noise_steps": 500},
        Diffusion(500),
    ]
    assert Several(views).views == (Diffusion(500),) * 3
    assert build(Identity()) == Identity()
