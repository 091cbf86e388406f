"""The noise schedule to the digit, and the noise it puts on pixels."""

import math

import pytest
import torch

from augment import Diffusion, generator_for
from augment.diffusion import add_noise, schedule

PUBLISHED = {  # step: (share of the image kept, standard deviation of the noise), as tabulated for the SeVa code
    100: (0.9983, 0.0584),
    200: (0.9939, 0.1105),
    300: (0.9810, 0.1941),
    400: (0.9449, 0.3275),
    500: (0.8630, 0.5052),
    600: (0.7342, 0.6789),
    700: (0.5927, 0.8054),
    800: (0.4670, 0.8843),
    900: (0.3649, 0.9311),
    999: (0.2850, 0.9585),
}


@pytest.mark.parametrize("step", PUBLISHED)
def test_the_schedule_is_the_published_one_to_the_digit(step: int) -> None:
    kept, noise_std = (round(float(table[step]), 4) for table in schedule())
    assert (kept, noise_std) == PUBLISHED[step]


def test_the_schedule_follows_its_formula_in_float64() -> None:
    kept, noise_std = schedule()
    assert kept.dtype == noise_std.dtype == torch.float64 and kept.shape == noise_std.shape == (1000,)
    product = 1.0
    for i in range(1000):
        product *= 1 - ((0.005 - 1e-5) / (1 + math.exp(6 - 12 * i / 999)) + 1e-5)
        assert float(kept[i]) == pytest.approx(math.sqrt(product), rel=1e-12)
        assert float(noise_std[i]) == pytest.approx(math.sqrt(1 - product), rel=1e-9)


def test_image_and_noise_keep_unit_variance_together() -> None:
    kept, noise_std = schedule()
    assert torch.allclose(kept**2 + noise_std**2, torch.ones(1000, dtype=torch.float64), atol=1e-14)


def test_more_steps_leave_less_of_the_image() -> None:
    kept, noise_std = schedule()
    assert bool((kept.diff() < 0).all()) and bool((noise_std.diff() > 0).all())


@pytest.mark.parametrize("step", [0, 300, 500, 999])
def test_noise_has_the_mean_and_spread_of_its_step(step: int) -> None:
    pixels = torch.full((3, 200, 200), 1.5)
    seen = Diffusion(noise_steps=step).on_tensor(pixels, generator_for(0))
    kept, noise_std = (float(table[step]) for table in schedule())
    assert float(seen.mean()) == pytest.approx(1.5 * kept, abs=4 * noise_std / math.sqrt(pixels.numel()))
    assert float(seen.std()) == pytest.approx(noise_std, rel=0.02)


def test_noise_is_the_generators_float32_stream() -> None:
    pixels = torch.linspace(-2, 2, 3 * 4 * 5).reshape(3, 4, 5)
    noise = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(9))
    kept, noise_std = (float(table[500]) for table in schedule())
    assert torch.equal(Diffusion(500).on_tensor(pixels, generator_for(9)), kept * pixels + noise_std * noise)


def test_stronger_noise_with_one_seed_is_the_same_noise() -> None:
    pixels = torch.zeros(3, 6, 6)
    weak, strong = (Diffusion(step).on_tensor(pixels, generator_for(4)) for step in (300, 800))
    noise_std = schedule()[1]
    assert torch.allclose(strong, weak * float(noise_std[800] / noise_std[300]), atol=1e-6)


def test_half_precision_pixels_stay_half_precision() -> None:
    assert add_noise(torch.zeros(3, 4, 4, dtype=torch.bfloat16), 500, generator_for(0)).dtype == torch.bfloat16
