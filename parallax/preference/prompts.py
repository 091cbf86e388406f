"""Pools of prompts: named lists of texts from which each sample draws its own. The texts live in `conf/prompts/*.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parallax.records import seed_for


class PromptPool(Sequence[str]):
    """Prompts of one purpose.

    Args:
        texts: at least one; surrounding white space is removed.
        name: shown in errors, and part of the draw.
    """

    def __init__(self, texts: Sequence[str], name: str = "prompts") -> None:
        if isinstance(texts, str) or not texts:
            raise ValueError(f"the prompt pool {name!r} is {texts!r}; give a list of at least one text")
        wrong = [text for text in texts if not isinstance(text, str) or not text.strip()]
        if wrong:
            raise ValueError(f"the prompt pool {name!r} holds {wrong[0]!r}; every prompt is a text that is not empty")
        self.name, self.texts = name, tuple(text.strip() for text in texts)

    def draw(self, run_seed: int, sample_id: str, index: int = 0) -> str:
        """The sample's own prompt: uniform over the pool, fixed by (seed, sample, pool name, index)."""
        return self.texts[seed_for(run_seed, sample_id, f"prompt/{self.name}", index) % len(self.texts)]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        return self.texts[place]


def pools_from(node: Mapping[str, Any]) -> dict[str, PromptPool]:
    """Pools of a `prompts` node: every key whose value is a list of texts, or one text, is a pool of that name."""
    pools = {}
    for name, value in node.items():
        if isinstance(value, str):
            pools[name] = PromptPool([value], name)
        elif isinstance(value, Sequence):
            pools[name] = PromptPool(list(value), name)
    if not pools:
        raise ValueError("the prompts node holds no pool; give at least one list of texts, such as describe: [...]")
    return pools


def pool_from_file(path: Path | str, name: str = "prompts") -> PromptPool:
    """A user's own pool: a text file with one prompt per line (empty lines and lines starting with # are left out)."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"the prompt file {file} does not exist; give a text file with one prompt per line")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return PromptPool([line for line in lines if line and not line.startswith("#")], name)
