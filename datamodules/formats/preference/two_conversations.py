"""Two whole conversations in LLaVA's form: `{"id", "image", "conversations", "rejected_conversations"}`.

POVID's, SIMA's and CSR's files are so. CSR stores questions inside its chat template; they are taken out of it.
"""

from __future__ import annotations

import re

from datamodules.formats.placeholders import IMAGE
from datamodules.formats.preference.base import Choices, Format, RawPair, Row, Said, images_in, make_pair, parts_of
from datamodules.formats.preference.llama_factory import with_system
from datamodules.formats.preference.messages import same_question, split_answer

TEMPLATED = re.compile(r"(?:^|\s)USER:\s*(.*?)\s*ASSISTANT:\s*$", re.DOTALL)


def read_two(row: Row, _: Choices) -> list[RawPair]:
    asked, better = split_answer(row.get("conversations"), "conversations")
    other, worse = split_answer(row.get("rejected_conversations"), "rejected_conversations")
    same_question(asked, other)
    asked[-1] = _without_template(asked[-1])
    return [make_pair(with_system(row, asked), images_in(row), better, [worse], row=row)]


def _without_template(message: Said) -> Said:
    whole = "".join(part if isinstance(part, str) else IMAGE for part in message.parts)
    found = TEMPLATED.search(whole)
    return Said(message.role, parts_of(found.group(1))) if found else message


FORMATS = (Format(("sima", "povid", "csr", "llava"), lambda row: "rejected_conversations" in row, read_two, weight=5),)
