"""How large the official files of the papers' data are, so that a part of one is noticed before hours are spent on it."""

from __future__ import annotations

ROWS = {  # rows of a file, images of a folder
    "llava_v1_5_mix665k.json": 665_298,  # 40,688 of them without an image
    "conversation_58k.json": 56_681,
    "detail_23k.json": 23_240,
    "complex_reasoning_77k.json": 76_643,
    "CSR-Prompt-Dataset-12k.json": 12_856,
    "6k_coco_names.json": 6_275,  # 6,099 different names
    "train2014": 82_783,
    "val2014": 40_504,
    "train2017": 118_287,
    "val2017": 5_000,
}


def expected_rows(name: str) -> int | None:
    """Rows of the official file, or images of the official folder, of this name; None for a name that is not known."""
    return ROWS.get(name)
