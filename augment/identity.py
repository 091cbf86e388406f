"""The clean view: what the chosen answers are generated from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from augment.view import View


@dataclass(frozen=True)
class Identity(View):
    """The image as it is."""

    name: ClassVar[str] = "identity"

    @property
    def is_random(self) -> bool:
        return False
