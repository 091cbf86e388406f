"""A family's own image output: taken apart by image, put together for any rows, written to a file and read again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from parallax.models.encoding.image_features import ImageFeatures, encode_images, joined_features


class Odd(nn.Module):
    """Gives features as a tensor, deeper features by layer and image, a table of no image, and a field that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.model = SimpleNamespace()

    def get_image_features(self, pixel_values: torch.Tensor, return_dict: bool = True) -> Any:
        from dataclasses import make_dataclass

        self.calls.append(len(pixel_values))
        cls = make_dataclass("Deep", [("pooler_output", Any), ("deep", Any), ("table", Any), ("absent", Any)])
        deep = [tuple(image * layer for image in pixel_values) for layer in (1, 2)]
        return cls(pixel_values.mean(-1, keepdim=True).expand(-1, -1, 2), deep, torch.ones(3, 2), None)


def image(number: int, rows: int = 4) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(1, rows, 2, generator=torch.Generator().manual_seed(number))}


def test_each_field_follows_its_own_rule() -> None:
    model = Odd()
    parts = encode_images(model, [image(0), image(1)])
    assert parts[0].rules == {"pooler_output": "rows", "deep": "layers", "table": "same", "absent": "none"}
    whole = joined_features([parts[1], parts[0], parts[1]])
    three = model.get_image_features(torch.cat([image(n)["pixel_values"] for n in (1, 0, 1)]))
    assert torch.equal(whole.pooler_output, three.pooler_output) and torch.equal(whole.table, three.table)
    assert whole.absent is None and len(whole.deep) == 2
    for one, other in zip(whole.deep, three.deep, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_images_of_different_sizes_are_encoded_one_by_one_unless_each_is_an_item() -> None:
    model = Odd()
    parts = encode_images(model, [image(0, 4), image(1, 6)])
    assert [part.fields["pooler_output"].shape[1] for part in parts] == [4, 6]
    model.calls.clear()
    encode_images(model, [image(2, 4), image(3, 6)])
    assert model.calls == [1, 1]


def test_features_written_to_a_file_come_back() -> None:
    (part,) = encode_images(Odd(), [image(0)])
    again = ImageFeatures.from_flat(part.flat())
    assert again.rules == part.rules and again.flat().keys() == part.flat().keys()
    one, other = joined_features([part]), joined_features([again])
    assert torch.equal(one.pooler_output, other.pooler_output) and other.absent is None
    assert all(torch.equal(value, again.flat()[name]) for name, value in part.flat().items())
