"""Pools of prompts: named lists of texts from which each sample draws its own. The texts live in `conf/prompts/*.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
