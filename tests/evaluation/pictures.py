"""Images and samples for the tests of this room."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from parallax.records import Sample, Turn
from parallax.records.images import FileImage

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


@dataclass(frozen=True)
class Picture:
    """An image that is never looked at."""

    name: str

    def load(self) -> Image.Image:
        raise AssertionError("this test needs no pixels")

    def digest(self) -> str:
        return self.name

    def describe(self) -> str:
        return self.name


def sample(name: str, answer: str | None = None, objects: tuple[str, ...] | None = None, kind: str = "") -> Sample:
    return Sample(name, "test", Picture(name), (Turn("What is there?", answer),), kind, objects)


def yes_no(number: int, truth: str, category: str) -> Sample:
    """A POPE question; two questions share an image."""
    extra = {"category": category}
    image = Picture(f"image {number // 2}")
    return Sample(f"{category}:{number}", "pope", image, (Turn("Is there a dog?", truth),), "pope", None, extra)


def painted(folder: Path, count: int, question: str = "What colour is it?") -> list[Sample]:
    """Samples with real image files of one colour each."""
    samples = []
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (40, 40 + number), colour).save(folder / f"{number}.png")
        image = FileImage(str(folder), f"{number}.png")
        samples.append(Sample(f"s{number}", "painted", image, (Turn(question, colour),), "colour", (colour,)))
    return samples
