"""How well a sentence fits a picture: the cosine of CLIP's embeddings (arXiv 2103.00020; the relevance of CSR, 2405.14622).

Any model of transformers with `get_image_features` and `get_text_features` will do. Each picture and each text is embedded once
per call, in batches; results are kept by content (weights, precision, image bytes, text) and found again by later runs. The
model is loaded when the first pair that is not known is asked for.

A text that is longer than the model reads is never cut: it is taken apart into sentences, and a sentence that is still too long
into stretches of words; the cosines of the parts are averaged, each weighing as much as it has tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from parallax.models.ingredients import files_digest, folder_digest, processor_digest, tensors_digest
from parallax.models.loading import loaded, precision_for, refuse_gaps
from parallax.records import ImageRef, fingerprint
from parallax.records.shard_folder import KeyedStore
from parallax.settings.ranges import Count, ModelPath

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
VERSION = 1  # of this computation; raised when a change may change cosines
KEPT_PICTURES = 8192  # image embeddings kept in memory; a search asks about the same picture again and again


class PairModel:
    """A model on disk or on the Hugging Face hub that gives a number for a picture and a text; its numbers are kept by content.

    Args:
        path: folder or hub name.
        revision: commit or tag of the hub repository; None takes the newest.
        dtype: `auto` is float32 on a CPU and bfloat16 (float16 on older cards) on a GPU.
        batch_size: pictures, or texts, embedded at once.
        cache_dir: results are kept below it; None keeps nothing.
    """

    auto: ClassVar[str] = "AutoModel"  # the class of transformers that loads it
    folder: ClassVar[str] = "image_text"  # below cache_dir

    def __init__(
        self,
        path: ModelPath,
        *,
        revision: str | None = None,
        dtype: Dtype = "auto",
        batch_size: Count = 64,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.path, self.revision, self.dtype, self.batch_size = path, revision, dtype, batch_size
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else None
        self.computed = self.reused = 0  # pairs of picture and text
        self._store: KeyedStore | None = None
        self._network: Any = None
        self._processor: Any = None
        self._digest: str | None = None
        self._pictures: dict[str, Tensor] = {}

    def values(self, pairs: Sequence[tuple[ImageRef, str]], device: torch.device | str = "cpu") -> list[float]:
        """One number per (picture, text), in order. `device` is where the model is put when it has to be loaded.

        Raises ValueError for an empty text.
        """
        if not pairs:
            return []
        if any(not text.strip() for _, text in pairs):
            raise ValueError("an empty text fits no picture; leave it out")
        if self._store is None and self.cache_dir is not None:
            self._store = KeyedStore(self.cache_dir / self.folder)
        keys = [self._key(image, text, device) for image, text in pairs]
        known: dict[str, float] = self._store.get_many(keys) if self._store is not None else {}
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        self.reused += len(known)
        if missing:
            made = dict(zip(missing, self._compute(list(missing.values()), device), strict=True))
            self.computed += len(made)
            if self._store is not None:
                self._store.add(made)
            known |= made
        return [known[key] for key in keys]

    def digest(self) -> str:
        """Names all that decides its numbers."""
        return self._weights()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _weights(self) -> str:
        """Names weights, configuration, processor and tokenizer by their content."""
        if self._digest is None:
            files = _weight_files(self.path, self.revision)
            if not files:
                self._load("cpu")
                files = _weight_files(self.path, self.revision)
            if files:
                self._digest = fingerprint([files_digest(files), folder_digest(files[0].parent)])
            else:
                network = tensors_digest(self._network.state_dict())
                self._digest = fingerprint([network, processor_digest(self._processor)])
        return self._digest

    def _key(self, image: ImageRef, text: str, device: torch.device | str) -> str:
        precision = str(precision_for(self.dtype, str(device))).removeprefix("torch.")
        content = {
            "version": VERSION,
            "model": self._weights(),
            "precision": precision,
            "image": image.digest(),
            "text": text,
        }
        return fingerprint(content)

    def _compute(self, pairs: Sequence[tuple[ImageRef, str]], device: torch.device | str) -> list[float]:
        raise NotImplementedError

    def _load(self, device: torch.device | str) -> None:
        if self._network is not None:
            if str(device) != "cpu" and self._network.device.type == "cpu":
                self._network.to(device=device, dtype=precision_for(self.dtype, str(device)))
                self._pictures = {}
            return
        import transformers

        dtype = precision_for(self.dtype, str(device))
        network, report = loaded(
            self.path, getattr(transformers, self.auto), revision=self.revision, dtype=dtype, output_loading_info=True,
            ignore_mismatched_sizes=True,  # `refuse_gaps` says which
        )  # fmt: skip
        refuse_gaps(self.path, report)
        self._network = network.to(device).eval()
        self._processor = loaded(self.path, transformers.AutoProcessor, revision=self.revision)


class ImageTextModel(PairModel):
    """A CLIP-like model. Arguments as for `PairModel`."""

    def cosines(self, pairs: Sequence[tuple[ImageRef, str]], device: torch.device | str = "cpu") -> list[float]:
        """One cosine (-1 to 1) per (picture, text), in order. Raises ValueError for an empty text."""
        return self.values(pairs, device)

    def embed(self, images: Sequence[ImageRef], device: torch.device | str = "cpu") -> list[list[float]]:
        """Unit vectors of pictures, in order."""
        self._load(device)
        found = self._embed_pictures(images)
        return [found[image.digest()].float().cpu().tolist() for image in images]

    def parts(self, text: str) -> list[tuple[str, int]]:
        """A text as pieces that the model can read whole, with their numbers of tokens."""
        if (count := self._count(text)) <= self.limit:
            return [(text, count)]
        pieces: list[tuple[str, int]] = []
        for sentence in re.split(r"(?<=[.!?…。！？])\s+", text.strip()):
            if (count := self._count(sentence)) <= self.limit:
                pieces.append((sentence, count))
            else:
                pieces.extend(self._stretches(sentence))
        return pieces

    @property
    def limit(self) -> int:
        """Most tokens of a text, start and end token included."""
        self._load("cpu")
        return int(self._network.config.text_config.max_position_embeddings)

    # -- inside ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _compute(self, pairs: Sequence[tuple[ImageRef, str]], device: torch.device | str) -> list[float]:
        self._load(device)
        pictures = self._embed_pictures([image for image, _ in pairs])
        texts = self._embed_texts(list(dict.fromkeys(text for _, text in pairs)))
        return [float(texts[text].double() @ pictures[image.digest()].double()) for image, text in pairs]

    def _embed_pictures(self, images: Sequence[ImageRef]) -> dict[str, Tensor]:
        distinct = {image.digest(): image for image in images}
        new = [digest for digest in distinct if digest not in self._pictures]
        made: dict[str, Tensor] = {}
        for start in range(0, len(new), self.batch_size):
            some = new[start : start + self.batch_size]
            loaded = [distinct[digest].load() for digest in some]
            pixels = self._processor.image_processor(images=loaded, return_tensors="pt")["pixel_values"]
            features = self._network.get_image_features(
                pixel_values=pixels.to(self._network.device, self._network.dtype)
            )
            made |= dict(zip(some, _unit(features), strict=True))
        found = {digest: self._pictures[digest] for digest in distinct if digest in self._pictures} | made
        if len(self._pictures) + len(made) > KEPT_PICTURES:
            self._pictures = {}
        self._pictures |= made
        return found

    def _embed_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The weighted mean of a text's parts' embeddings: its product with a picture's is the weighted mean of cosines."""
        pieces = [(text, part, count) for text in texts for part, count in self.parts(text)]
        vectors: list[Tensor] = []
        for start in range(0, len(pieces), self.batch_size):
            some = [part for _, part, _ in pieces[start : start + self.batch_size]]
            coded = self._processor.tokenizer(some, padding=True, return_tensors="pt", return_token_type_ids=False)
            coded = {name: value.to(self._network.device) for name, value in coded.items()}
            vectors.extend(_unit(self._network.get_text_features(**coded)))
        totals: dict[str, Tensor] = {}
        weights: dict[str, int] = {}
        for (text, _, count), vector in zip(pieces, vectors, strict=True):
            totals[text] = totals.get(text, torch.zeros_like(vector)) + count * vector
            weights[text] = weights.get(text, 0) + count
        return {text: total / weights[text] for text, total in totals.items()}

    def _count(self, text: str) -> int:
        self._load("cpu")
        return len(self._processor.tokenizer(text)["input_ids"])

    def _stretches(self, sentence: str) -> list[tuple[str, int]]:
        """A sentence that is too long, in stretches of whole words as long as they fit (a word that is too long, in halves)."""
        words, made, current = sentence.split(), list[tuple[str, int]](), ""
        while words:
            longer = f"{current} {words[0]}".strip()
            if self._count(longer) <= self.limit:
                current = longer
                words.pop(0)
            elif current:
                made.append((current, self._count(current)))
                current = ""
            else:
                word = words.pop(0)
                words[:0] = [word[: len(word) // 2], word[len(word) // 2 :]]
        return [*made, (current, self._count(current))] if current else made

    def _load(self, device: torch.device | str) -> None:
        super()._load(device)
        for name in ("get_image_features", "get_text_features"):
            if not hasattr(self._network, name):
                raise ValueError(
                    f"{self.path} is a {type(self._network).__name__}, which does not embed pictures and texts alike; give a "
                    "CLIP-like model such as openai/clip-vit-large-patch14-336"
                )


def _unit(features: object) -> Tensor:
    """Embeddings of length 1 in float32, on the CPU. Shape: (rows, width)."""
    vectors: Tensor = getattr(features, "pooler_output", features)  # type: ignore[arg-type]
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


def _weight_files(path: str, revision: str | None) -> list[Path]:
    """Weight files in a folder, or in Hugging Face's own cache if they are there."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(path, "config.json", revision=revision)
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
