"""Where sentences end: points that are no ends, and the tokens of real tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoProcessor

from parallax.models.search.sentence_end import SentenceEnds, ending


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("The cat sleeps.", "end"), ("Does it sleep?", "end"), ("It sleeps!", "end"), ("It sleeps. ", "end"),
        ('He said "yes."', "end"), ("(It sleeps.)", "end"), ("It sleeps...", "end"), ("It sleeps…", "end"), ("猫が寝る。", "end"),
        ("No.", "end"), ("Here am I.", "end"), ("**It sleeps.**", "end"),
        ("The cat", "open"), ("", "open"), ("   ", "open"), ("with Mr.", "open"), ("with (Dr.", "open"), ("e.g.", "open"),
        ("things, i.e.", "open"), ("by J.", "open"), ("in the U.S.", "open"), ("1.", "open"), (" 12.", "open"), ("a.", "open"),
        ("iv.", "open"), ("cats vs.", "open"),
        ("The sign reads 42.", "number"), ("It is 3.", "number"),
    ],
)  # fmt: skip
def test_the_state_of_a_text(text: str, state: str) -> None:
    assert ending(text) == state


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_tokens_of_sentencepiece_and_byte_level_tokenizers(family: str, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoProcessor.from_pretrained(str(checkpoints[family])).tokenizer
    ends = SentenceEnds(tokenizer, len(tokenizer) + 7)  # models often have more logits than tokens
    marks = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in ("a star.", "is it?", "yes!")]
    assert all(ends.may_end[token] for token in marks)
    letters = tokenizer("star", add_special_tokens=False)["input_ids"]
    assert not any(ends.may_end[token] for token in letters)
    assert not ends.may_end[tokenizer.eos_token_id] and not ends.may_end[-7:].any()
    inside = tokenizer("3.5", add_special_tokens=False)["input_ids"][-1]
    assert ends.starts_with_digit[inside] and not ends.starts_with_digit[marks[0]]
    first = tokenizer("is 42", add_special_tokens=False)["input_ids"]
    spaced = [token for token in first if tokenizer.convert_ids_to_tokens(token)[0] in "▁Ġ"]
    assert not any(ends.starts_with_digit[token] for token in spaced)
