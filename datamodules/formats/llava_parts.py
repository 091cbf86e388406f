"""How SeVa samples and cleans the parts of LLaVA's fine-tuning mix (arXiv 2404.10501, section 4.1, and its released code).

A part is recognised by the start of its image paths. From each of its dialogues a few questions are drawn, the sentence that
asks for short answers is taken off where the paper's code does so, and so many dialogues are sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from parallax.records import seed_for

SHORT_ANSWER = "Answer the question using a single word or phrase."  # what the mix appends to its VQA questions

Newlines = Literal["keep", "space", "delete"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the mix.

    Args:
        prefix: how its image paths start; several may be given with `|`.
        entries: dialogues sampled, None for all.
        questions: questions drawn per dialogue, each a sample of its own; None keeps a dialogue whole, as one sample.
        strip_suffix: taken off the end of a question where it stands, None for nothing.
        newlines: line breaks inside a question: kept, read as one space, or deleted as SeVa's code does (which joins words).
    """

    prefix: str
    entries: int | None = None
    questions: int | None = 2
    strip_suffix: str | None = None
    newlines: Newlines = "keep"

    def __post_init__(self) -> None:
        if (self.questions is not None and self.questions < 1) or (self.entries is not None and self.entries < 1):
            raise ValueError(
                f"the part {self.prefix!r} wants {self.entries} entries of {self.questions} questions; both can be 1 or more"
            )
        if self.newlines not in ("keep", "space", "delete"):
            raise ValueError(f"newlines is {self.newlines!r}; it can be keep, space or delete")

    def owns(self, image: str) -> bool:
        """Whether an image path belongs to this part."""
        return image.lstrip("./").startswith(tuple(self.prefix.split("|")))

    def clean(self, question: str) -> str:
        """A question without placeholder as it is asked."""
        text = question.strip()
        if self.strip_suffix and text.endswith(self.strip_suffix):
            text = text[: -len(self.strip_suffix)].rstrip()
        if self.newlines == "space":
            text = " ".join(text.split())
        elif self.newlines == "delete":
            text = text.replace("\r", "").replace("\n", "")
        return text

    def draw(self, turns: int, seed: int, sample_id: str) -> list[int]:
        """Which of a dialogue's questions are asked, in their order."""
        drawn = sorted(range(turns), key=lambda turn: seed_for(seed, sample_id, "question", turn))
        return sorted(drawn[: self.questions])


PARTS = {  # SeVa's rules; `textcaps` is what its paper calls TextVQA: captions of images with text
    "ocr_vqa": Part("ocr_vqa/", strip_suffix=SHORT_ANSWER, newlines="space"),
    "textcaps": Part("textvqa/"),
    "gqa": Part("gqa/", strip_suffix=SHORT_ANSWER, newlines="space"),
    "vg": Part("vg/", newlines="space"),
    "coco": Part("coco/"),
}


def parts_from(node: Mapping[str, Any]) -> dict[str, Part]:
    """Parts of a config: name -> number of dialogues, null for all, or `Part` arguments (own parts need a prefix)."""
    parts: dict[str, Part] = {}
    allowed = [field.name for field in fields(Part)]
    for name, value in node.items():
        known = PARTS.get("textcaps" if name == "textvqa" else name)
        changes = dict(value) if isinstance(value, Mapping) else {"entries": value}
        if unknown := sorted(set(changes) - set(allowed)):
            raise ValueError(f"data.parts.{name} has the key {unknown[0]!r}; its keys are {', '.join(allowed)}")
        if known is None and "prefix" not in changes:
            raise ValueError(
                f"data.parts.{name} is not one of {', '.join(PARTS)}; a part of your own needs a prefix of its image paths"
            )
        parts[name] = replace(known, **changes) if known is not None else Part(**changes)
    return parts
