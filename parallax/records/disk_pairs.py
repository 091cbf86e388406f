"""Preference pairs by the million: their texts and tokens lie in a private temporary file, their images stay handles.

In memory a pair takes the handle of its image, its id and eight bytes. The file has no name, so nobody else can open it and it is
gone with the process.
"""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from parallax.records.conversation import filled, told
from parallax.records.pair import PreferencePair, Response
from parallax.records.sample import ImageRef

ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class DiskPairs(Sequence[PreferencePair]):
    """A list of pairs that can only grow.

    Args:
        folder: on whose disk the temporary file lies; None for the system's own place.
    """

    def __init__(self, pairs: Iterable[PreferencePair] = (), folder: Path | str | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as the pairs are
        self._starts = array("q", [0])
        self._images: list[
            ImageRef | tuple[ImageRef, ...]
        ] = []  # of each pair; several with those of its rejected side
        for pair in pairs:
            self.append(pair)

    def append(self, pair: PreferencePair) -> None:
        """Add one pair at the end."""
        data = ENCODER.encode(_packed(pair)).encode()
        self._file.write(data)
        self._starts.append(self._starts[-1] + len(data))
        is_plain = not pair.messages and not pair.rejected_images
        self._images.append(pair.image if is_plain else (*pair.images, *pair.rejected_images))

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, place: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, place: slice) -> list[PreferencePair]: ...
    def __getitem__(self, place: int | slice) -> PreferencePair | list[PreferencePair]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"pair {place} of {len(self)}")
        place %= len(self)
        self._file.flush()
        start, end = self._starts[place], self._starts[place + 1]
        # forked workers share the file's position, so it is not used
        return _unpacked(json.loads(os.pread(self._file.fileno(), end - start, start)), self._images[place])

    def __iter__(self) -> Iterator[PreferencePair]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    def __reduce__(self) -> Any:
        return _from_list, (list(self),)


def _from_list(pairs: list[PreferencePair]) -> DiskPairs:
    return DiskPairs(pairs)


def _packed(pair: PreferencePair) -> list[Any]:
    responses = [
        [r.text, None if r.token_ids is None else list(r.token_ids), dict(r.provenance), r.score]
        for r in pair.responses
    ]
    asked = [told(pair.messages), len(pair.images)]
    return [pair.sample_id, pair.source, pair.prompt, pair.kind, dict(pair.meta), responses, *asked]


def _unpacked(row: list[Any], images: ImageRef | tuple[ImageRef, ...]) -> PreferencePair:
    sample_id, source, prompt, kind, meta, rows, written, count = row
    every = images if isinstance(images, tuple) else (images,)
    chosen, *rejected = (
        Response(text, None if ids is None else tuple(ids), provenance, score) for text, ids, provenance, score in rows
    )
    return PreferencePair(
        sample_id,
        source,
        every[0],
        prompt,
        chosen,
        tuple(rejected),
        kind,
        meta,
        filled(written, every[:count]),
        every[count:],
    )
