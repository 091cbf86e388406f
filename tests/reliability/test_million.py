"""A build over a million samples needs less than a gigabyte beyond the model."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from augment.diffusion import Diffusion
from datamodules.preference import PreferenceDataModule
from parallax.models.generation.requests import Generation, GenerationCounts, GenerationRequest
from parallax.preference.judges.by_construction import ByConstruction
from parallax.preference.proposers.by_view import ByView
from parallax.preference.selector import BestAgainstRest
from parallax.records import GenerationSpec, Sample, Turn
from tests import typed
from tests.faults import Injected


@dataclass(frozen=True, slots=True)
class Numbered:
    """An image that is only a number."""

    number: int

    def load(self) -> Image.Image:
        raise AssertionError("nobody has to look at it")

    def digest(self) -> str:
        return hashlib.sha256(b"%d" % self.number).hexdigest()

    def describe(self) -> str:
        return f"{self.number}.png"


class Source:
    """So many samples, each made when it is asked for."""

    name = "synthetic"

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> Sample:
        return Sample(
            f"sample-{place:09d}", "synthetic", Numbered(place), (Turn(f"What is shown in picture {place}?"),)
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[place] for place in range(self.size))


class Talker:
    """Answers in a sentence without a model."""

    name, precision, features, encoder = "talker", "float32", None, None
    last_generation = GenerationCounts()

    def fingerprint(self) -> str:
        return "0" * 32

    def spec(self, request: GenerationRequest) -> GenerationSpec:
        return GenerationSpec(
            "0" * 32, "float32", "p", "t", request.image.digest(), request.prompt, request.view, request.decoding
        )

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        batch_size: int,
        finished: Callable[[dict[int, Generation]], None],
        **_: Any,
    ) -> None:
        for start in range(0, len(requests), batch_size):
            made = {}
            for place in range(start, min(start + batch_size, len(requests))):
                request = requests[place]
                word = "red" if request.view.name == "identity" else "blue"
                text = f"There is a {word} circle beside a large square in {request.sample_id}, above a small triangle."
                made[place] = Generation(tuple(range(300, 320)), text, True)
            finished(made)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1_000_000])
def test_a_million_samples_stay_below_a_gigabyte(tmp_path: Path, injected: Injected, samples: int) -> None:
    datamodule = PreferenceDataModule(
        Source(samples), ByView(Diffusion(noise_steps=500), max_new_tokens=32), ByConstruction(), BestAgainstRest(),
        cache_dir=tmp_path, generation=typed.generation(batch_size=4096), show_progress=False,
    )  # fmt: skip
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    report = datamodule.build_pairs(Talker())
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    assert report.kept == samples == len(datamodule.pairs) == len(set(datamodule.pair_ids))
    mib = (peak - before) // 2**20
    assert mib < 1024, f"{mib} MiB"
    injected("samples in one build", used=samples, says="less than 1 GiB beyond the model", most_memory_in_MiB=mib)
