"""A reward learned from marked sentences: how they are read, and that its adapter judges and is gone again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.formats.marked_sentences import MarkedSentencesSource
from datamodules.shapes.source import ShapesSource
from parallax.preference.claim_prompt import load_claim_prompt
from parallax.preference.judges import Claims, RewardModel
from parallax.records import Candidate, Decoding, GenerationSpec, ViewSpec
from tests.parts import part
from tests.typed import load_policy

QUESTION = "Is this sentence true of the image? {claim}"
SAMPLE = ShapesSource("pairs_habit_free", 1)[0]
SPEC = GenerationSpec("p", "float32", "x", "t", "i", "What?", ViewSpec(), Decoding(8))
TEXTS = ("The top row has a red circle. The sign reads 42.", "A blue star.")


def group() -> list[Candidate]:
    return [Candidate(f"{k:032x}", SAMPLE.id, "sample", k, (), text, True, SPEC) for k, text in enumerate(TEXTS)]


def test_each_marked_sentence_is_a_question_and_bad_rows_are_set_aside(tmp_path: Path) -> None:
    marks = [{"text": "A dog  lies\nthere.", "right": True}, {"text": "It is red.", "right": False}]
    rows = [
        {"id": "a", "image": "1.jpg", "sentences": marks},
        {"image": "2.jpg"},
        {"image": "3.jpg", "sentences": [{"text": "?"}]},
    ]
    (tmp_path / "marks.json").write_text(json.dumps(rows))
    source = MarkedSentencesSource(tmp_path / "marks.json", tmp_path, QUESTION)
    assert [(s.id, s.question, s.answer) for s in source] == [
        ("a", "Is this sentence true of the image? A dog lies there.", "Yes."),
        ("a~1", "Is this sentence true of the image? It is red.", "No."),
    ]
    assert source.rows == 3 and [item.reason for item in source.set_aside] == ["bad_row", "bad_row"]
    with pytest.raises(ValueError, match="must show the sentence"):
        MarkedSentencesSource(tmp_path / "marks.json", tmp_path, "True?")


def test_the_judge_asks_what_the_reward_was_taught_about_each_sentence() -> None:
    prompt = load_claim_prompt("claims_sentences")
    assert prompt.found(TEXTS[0]) == ["The top row has a red circle.", "The sign reads 42."]
    assert prompt.check_text("{x} A cat.", "") == QUESTION.replace("{claim}", "{x} A cat.")


def test_the_adapter_judges_in_the_policys_place_and_is_gone_again(tmp_path: Path) -> None:
    policy = load_policy({"path": "assets/tiny_llava"}, {"r": 4}, device="cpu", seed=0)
    mine = {n: v.detach().clone() for n, v in policy.trainable_parameters()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in policy.trainable_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) / 10)
    policy.touched()
    policy.save_adapter(tmp_path / "reward")
    by_itself: Any = Claims("claims_sentences", by="probability", score="mean_probability", max_new_tokens=1)
    (expected,) = by_itself.judge(policy, [SAMPLE], [group()], seed=0, generate=None)
    with torch.no_grad():
        for name, value in policy.trainable_parameters():
            value.copy_(mine[name])
    policy.touched()
    before = policy.fingerprint()
    judge: Any = part(RewardModel, tmp_path / "reward", prompt="claims_sentences")
    (made,) = judge.judge(policy, [SAMPLE], [group()], seed=0, generate=None)
    (plain,) = by_itself.judge(policy, [SAMPLE], [group()], seed=0, generate=None)
    assert made.scores == expected.scores != plain.scores and all(0 < score < 1 for score in made.scores)
    assert all(torch.equal(value, mine[name]) for name, value in policy.trainable_parameters())
    assert policy.fingerprint() == before and len(judge.settings()["adapter"]) > 10
