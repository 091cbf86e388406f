"""Features of images: what a language model reads of each, kept from pass to pass, and handed to the model with a batch.

transformers' models take ready features as the output object of their own `get_image_features` (`mm_encoder_outputs`); what
makes them is in `tower`. Families that take none get the pixels, however many rows look at them.

A frozen tower and projector give the same features every time, so each image is encoded once and kept across epochs. They are
made image by image, so that they do not depend on which images happen to share a batch: a run that is resumed, with an empty
cache, gets the same numbers as one that went on. The cache holds what fits its budget and then takes no more: with passes in
a new order every epoch, throwing something out would only throw out what is needed next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallax.models.encoding.pixels import pixel_names
from parallax.models.encoding.tower import (
    NOTHING,
    Fields,
    Rule,
    Value,
    fields_of,
    join_vision,
    takes_features,
)
from parallax.models.foreign import VLM
from parallax.records.kept_file import DIGITS, why_not_believed, write_kept

if TYPE_CHECKING:
    from parallax.models.batch import EncodedPrompt, ScoringBatch

log = logging.getLogger(__name__)

MIB = 2**20


@dataclass
class ImageFeatures:
    """All that a language model reads of one image: the fields of its family's output object, by name.

    `pooler_output` is there, or `last_hidden_state` instead (Llama 4): a tensor (…, hidden), or tensors that follow one
    another. `rules` says how each field is put together with that of the next image.
    """

    fields: Fields
    rules: dict[str, Rule] = field(default_factory=dict)

    def flat(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own, for a file: `rows:pooler_output`, or `items:pooler_output.0`, …"""
        return {
            name: tensor
            for field_name, value in self.fields.items()
            for name, tensor in _named(
                f"{self.rules[field_name]}:{field_name}", value if isinstance(value, Tensor) or value else NOTHING
            )
        }

    @classmethod
    def from_flat(cls, named: Mapping[str, Tensor]) -> ImageFeatures:
        """The inverse of `flat`."""
        found = cls({})
        nests: dict[str, Any] = {}
        for key in sorted(named, key=lambda key: [int(part) for part in key.split(".")[1:]]):
            whole, *places = key.split(".")
            rule, _, name = whole.partition(":")
            found.rules[name] = rule  # type: ignore[assignment]
            nest = nests.setdefault(name, [])
            for place in places:
                if int(place) == len(nest):
                    nest.append([])
                nest = nest[int(place)]
            nest.append(named[key])
        found.fields = {n: [] if found.rules[n] == "none" else _unwrapped(nest) for n, nest in nests.items()}
        return found

    def to(self, device: torch.device) -> ImageFeatures:
        """On `device`, without waiting for it."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self.flat().items()}
        return ImageFeatures.from_flat(moved)


def encode_images(model: VLM, images: Sequence[dict[str, Tensor]]) -> list[ImageFeatures]:
    """The features of each image.

    `images`: what the image processor gave for each, on the model's device and in its precision.
    """
    if not images:
        return []
    fields, rules = fields_of(model, images)
    return [ImageFeatures(own, rules) for own in fields]


def joined_features(parts: Sequence[ImageFeatures]) -> Any:
    """One output object, as the model's own `get_image_features` would give it for these images one after the other."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    ready = BaseModelOutputWithPooling()
    for name, rule in parts[0].rules.items():
        values: list[Any] = [part.fields[name] for part in parts]
        if rule == "none":
            setattr(ready, name, None)
        elif rule == "items":
            ready[name] = [item for value in values for item in value]
        elif rule == "layers":
            ready[name] = [_followed(layer) for layer in zip(*values, strict=True)]
        else:
            ready[name] = values[0] if rule == "same" or len(values) == 1 else torch.cat(values)
    return ready


def _followed(values: Sequence[Any]) -> Any:
    """Tensors one after the other, or lists."""
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    return torch.cat(list(values))


def _named(name: str, value: Value) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    else:
        for place, item in enumerate(value):
            yield from _named(f"{name}.{place}", item)


def _unwrapped(nest: Value) -> Any:
    """Lists that stand for one tensor as this tensor."""
    if isinstance(nest, Tensor):
        return nest
    return nest[0] if len(nest) == 1 and isinstance(nest[0], Tensor) else [_unwrapped(item) for item in nest]


def cast_vision(vision: dict[str, Tensor], dtype: torch.dtype, device: torch.device | None = None) -> dict[str, Tensor]:
    """Vision inputs on `device` (None: where they are), floating ones in the model's precision."""
    there = {name: value if device is None else value.to(device, non_blocking=True) for name, value in vision.items()}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in there.items()}


class ImageInputs:
    """How the images of a batch are given to the model: as ready features where the family allows it, else as pixels.

    A row whose image is empty (no vision inputs) shows none.
    `expanded(counts)` gives keyword arguments for a batch in which image i is looked at by `counts[i]` rows in a row.
    """

    def __init__(
        self,
        model: VLM,
        images: Sequence[dict[str, Tensor]],
        dtype: torch.dtype,
        features: Sequence[ImageFeatures] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model = model
        self.images = [cast_vision(image, dtype, device) for image in images]
        self.features: list[ImageFeatures | None] | None = list(features) if features is not None else None
        if self.features is None and takes_features(model):
            seen = iter(encode_images(model, [image for image in self.images if image]))
            self.features = [next(seen) if image else None for image in self.images]

    def add(self, more: ImageInputs) -> None:
        """Take in the images of another batch for the same model."""
        self.images += more.images
        if self.features is not None and more.features is not None:
            self.features += more.features

    def expanded(self, counts: Sequence[int]) -> dict[str, Any]:
        """Shape of the batch they fit: (sum(counts), …)."""
        rows = [index for index, count in enumerate(counts) for _ in range(count)]
        return self.selected(rows)

    def selected(self, rows: Sequence[int]) -> dict[str, Any]:
        """Keyword arguments for a batch whose row r looks at image `rows[r]`."""
        if self.features is None:
            return dict(join_vision([self.images[row] for row in rows]))
        seen = [features for row in rows if (features := self.features[row]) is not None]
        return {"mm_encoder_outputs": {"image": joined_features(seen)}} if seen else {}


class FeatureCache:
    """Features by name, in memory or in a folder.

    Args:
        budget: most bytes that are kept.
        folder: keep them there as safetensors files, for other runs too; None keeps them in memory. The caller makes its name say
            which tower, projector and precision they come from.
    """

    def __init__(self, budget: int, folder: Path | None = None) -> None:
        if budget < 1:
            raise ValueError(f"a feature cache of {budget} bytes holds nothing; give it 1 or more, or use none")
        self.budget, self.folder = budget, folder
        self._memory: dict[str, ImageFeatures] = {}
        self._files: dict[str, tuple[Path, int]] = {}  # name -> file and bytes
        self._believed: set[str] = set()  # of these, those whose content was compared with its digest
        if folder is not None and folder.is_dir():
            files = folder.glob(f"*/*-{'?' * DIGITS}.safetensors")
            self._files = {path.stem[: -DIGITS - 1]: (path, path.stat().st_size) for path in files}
        self.used = sum(size for _, size in self._files.values())
        self.full = False

    def __contains__(self, name: str) -> bool:
        if name in self._files and name not in self._believed:
            self._look_at(name)
        return name in self._memory or name in self._files

    def __len__(self) -> int:
        return len(self._memory) + len(self._files)

    def get(self, name: str) -> ImageFeatures | None:
        """The features of this name, or None."""
        if name not in self:
            return None
        return self._read(name) if name in self._files else self._memory[name]

    def put(self, name: str, features: ImageFeatures) -> bool:
        """Keep features if there is room. Returns whether they are kept."""
        wait = self.folder is not None  # a file is written at once
        tensors = {key: _on_host(value.detach(), wait) for key, value in features.flat().items()}
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        if name in self or self.used + size > self.budget:
            if name not in self and not self.full:
                self.full = True
                log.info(
                    "image features: %s images fill the %s MiB of model.feature_cache_mib; the others are encoded in each pass",
                    f"{len(self):,}", f"{self.budget // MIB:,}",
                )  # fmt: skip
            return name in self
        if self.folder is None:
            self._memory[name] = ImageFeatures.from_flat(tensors)
        else:
            from safetensors.torch import save

            data = save({key: value.contiguous() for key, value in tensors.items()})
            self._files[name] = (write_kept(self.folder / name[:2], name, data, ".safetensors"), size)
            self._believed.add(name)
        self.used += size
        return True

    def _look_at(self, name: str) -> None:
        """Believe a file that was found, or forget it."""
        try:
            why = why_not_believed(self._files[name][0])
        except OSError as error:
            why = str(error.strerror)
        self._forget(name, why) if why else self._believed.add(name)

    def _forget(self, name: str, why: str) -> None:
        path, size = self._files.pop(name)
        self.used -= size
        log.warning("ignored the kept image features %s: %s; they are made again", path, why)

    def _read(self, name: str) -> ImageFeatures | None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return ImageFeatures.from_flat(load_file(self._files[name][0]))
        except (OSError, SafetensorError) as error:  # removed or damaged by somebody else
            self._forget(name, str(error))
            return None


def _on_host(value: Tensor, wait: bool) -> Tensor:
    """`value` in host memory; without waiting in page-locked memory, from where it can go back to its GPU without waiting."""
    if wait or value.device.type == "cpu":
        return value.cpu()
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


class ReadyFeatures:
    """Fills batches with features, from a cache or freshly made, and remembers the prompts around them."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self._prompts: dict[str, EncodedPrompt] = {}

    def prompt(self, image: str, question: str) -> EncodedPrompt | None:
        """The encoded prompt without pixels, if the image's features are there and it was encoded before."""
        return self._prompts.get(f"{image} {question}") if self._name(image) in self.cache else None

    def remember(self, image: str, question: str, prompt: EncodedPrompt) -> None:
        """Keep an encoded prompt for later passes, as long as there is room for features."""
        if not self.cache.full:
            bare = {name: value for name, value in prompt.vision.items() if name not in pixel_names(prompt.vision)}
            self._prompts[f"{image} {question}"] = replace(prompt, vision=bare)

    def fill(self, network: VLM, batch: ScoringBatch) -> ScoringBatch:
        """The batch with ready features in place of pixels. Batches whose images have no names are left as they are."""
        if batch.image_names is None:
            return batch
        device = batch.device or batch.prompt_ids.device
        made = [
            self._features(network, name, vision, device)
            for name, vision in zip(batch.image_names, batch.vision, strict=True)
        ]
        return replace(batch, features=made)

    def _features(self, network: VLM, image: str, vision: Mapping[str, Tensor], device: torch.device) -> ImageFeatures:
        name = self._name(image)
        known = self.cache.get(name)
        if known is not None:
            return known.to(device)
        if not pixel_names(vision):
            raise RuntimeError(
                f"the features of image {image} were known and are gone, and its pixels were not loaded; is somebody "
                "deleting the cache folder? Start again, or use model.feature_cache=memory"
            )
        dtype = network.get_input_embeddings().weight.dtype
        with torch.inference_mode(False), torch.no_grad():
            # tensors of an inference-mode pass could not be trained on later
            plain = {key: value.clone() if value.is_inference() else value for key, value in vision.items()}
            features = encode_images(network, [cast_vision(plain, dtype, device)])[0]
        self.cache.put(name, features)
        return features

    @staticmethod
    def _name(image: str) -> str:
        """Features under autocast are not those without."""
        for kind in ("cuda", "cpu"):
            if torch.is_autocast_enabled(kind):
                return f"{image}-{torch.get_autocast_dtype(kind)}".replace("torch.", "")
        return image
