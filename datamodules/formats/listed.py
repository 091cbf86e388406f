"""What all readers of samples share: they read their file once, when first asked, and keep account of every row."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datamodules.source import Source
from parallax.records import Sample
from parallax.records.skipped import SetAside
from parallax.settings.ranges import Count


class Unusable(Exception):
    """A row that cannot be used: a short reason to count by, and a sentence."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason, self.why = reason, why


class Listed(Source):
    """A source read from one file or folder."""

    def __init__(self, path: Path | str, name: str, limit: Count | None = None) -> None:
        self.path, self.name, self.limit = existing(path), name, limit
        self.rows: int = 0
        self.set_aside: list[SetAside] = []
        self.left_out: Counter[str] = Counter()
        self.counted: dict[str, int] = {}
        self.available: Counter[str] = Counter()
        self._items: list[Sample] | None = None
        self._ids: set[str] = set()

    @abstractmethod
    def _read(self) -> list[Sample]:
        """Everything that can be used, in file order."""

    @property
    def items(self) -> list[Sample]:
        if self._items is None:
            self.rows, self.set_aside, self.left_out, self._ids = 0, [], Counter(), set()
            self.counted, self.available = {}, Counter()
            self._items = self._read()
        return self._items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        return self.items[place]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)

    def _set_aside(self, row: int | str, reason: str, why: str, file: Path | None = None) -> None:
        named = (file or self.path).name
        self.set_aside.append(SetAside(f"{named}:{row}", self.name, reason, f"{named}, row {row}: {why}"))

    def _unique_id(self, given: object, row: int, prefix: str = "") -> str:
        return unique_id(self._ids, given, row, prefix)


def unique_id(taken: set[str], given: object, row: int, prefix: str = "") -> str:
    """The row's own id; with the row number added when it has none or another row has it already. It is taken from then on."""
    own = str(given) if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip() else ""
    own = f"{prefix}{own}" if own else ""
    name = own if own and own not in taken else f"{own}~{row}" if own else f"{prefix}row{row}"
    while name in taken:
        name += "~"
    taken.add(name)
    return name


def existing(path: Path | str) -> Path:
    """The path, `~` resolved. Raises FileNotFoundError when nothing is there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise FileNotFoundError(f"data.path {found} does not exist; give the path of an existing file or folder")
    return found


def existing_root(image_root: Path | str) -> Path:
    """The folder of images. Raises FileNotFoundError when it is none."""
    found = Path(image_root).expanduser()
    if not found.is_dir():
        raise FileNotFoundError(f"data.image_root {found} is no folder; give the folder the image paths start from")
    return found


KINDS = {
    type(None): "missing", bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
    tuple: "a list", dict: "an object",
}  # fmt: skip


def kind_of(value: object) -> str:
    """What a value is, in JSON's words."""
    return KINDS.get(type(value)) or f"a {type(value).__name__}"


def shortened(value: object) -> str:
    """A value as a sentence may quote it: never more than a line."""
    text = repr(value if not isinstance(value, str | bytes) else value[:200])
    return text if len(text) <= 120 else f"{text[:117]}…"


def image_path(value: object) -> str:
    """The one relative image path of a row. Raises `Unusable` for none, several, addresses and paths that leave the root."""
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise Unusable(
                "several_images" if value else "no_image", f"it names {len(value)} images; exactly one is supported"
            )
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise Unusable("no_image", f"its image is {shortened(value)}; a path below the image root is needed")
    if "://" in value:
        raise Unusable(
            "bad_image", f"its image is the address {shortened(value)}; addresses are not fetched, download it first"
        )
    if "\x00" in value or ".." in value.split("/"):
        raise Unusable(
            "bad_image", f"its image path {shortened(value)} leaves the image root; only files inside it are opened"
        )
    return value
