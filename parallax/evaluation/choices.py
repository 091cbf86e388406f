"""Multiple choice: which option an answer names, and the scores of MMBench, SEED-Bench and ScienceQA.

Benchmarks' own scripts differ. `published` is LLaVA's rule for ScienceQA: the letter alone, `X. …` in front, or `The answer is
X.`; anything else names none. `flexible` also takes brackets, `option X`, and an option's text where exactly one fits. An answer
that names no option is wrong, and is counted as a parse failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from parallax.evaluation.accuracy import plain_text
from parallax.records import Sample

ChoiceRule = Literal["flexible", "published"]
Scores = dict[str, tuple[float, float]]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_choice(text: str, options: Mapping[str, str], rule: ChoiceRule = "flexible") -> str | None:
    """The letter of the option the answer names; None when it names none, or more than one.

    Args:
        text: the answer.
        options: letter → text of the option.
        rule: see above.
    """
    text = plain_text(text)
    if rule == "published":
        return _published(text, options)
    letters = "".join(options)
    bare = re.fullmatch(rf"\(?([{letters}{letters.lower()}])\)?[.:)]?", text)
    if bare:
        return bare[1].upper()
    lead = re.match(rf"\(?([{letters}])(?:[.:)]|\s*[-–—]\s|\n)", text)
    if lead:
        return lead[1]
    named = {
        match[1]
        for pattern in (
            rf"(?i:answer|option|choice)(?:\s+(?i:is|would be))?\s*:?\s*\(?([{letters}])\b(?!')",
            rf"\(([{letters}])\)",
            rf"答案[是为:：\s]*\(?([{letters}])(?![A-Za-z])",
            rf"选项?\s*([{letters}])(?![A-Za-z])",
        )
        for match in re.finditer(pattern, text)
    }
    if named:
        return named.pop() if len(named) == 1 else None
    return _by_text(text, options)


def _published(text: str, options: Mapping[str, str]) -> str | None:
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    found = re.findall(r"The answer is ([A-Z]).", text)
    return found[0] if len(found) == 1 and found[0] in options else None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    said = _words(text)
    equal = [letter for letter, option in options.items() if _words(option) == said and said.strip()]
    if len(equal) == 1:
        return equal[0]
    inside = [letter for letter, option in options.items() if _words(option).strip() and _words(option) in said]
    longest = [a for a in inside if not any(a != b and _words(options[a]) in _words(options[b]) for b in inside)]
    return longest[0] if len(longest) == 1 else None


def _words(text: str) -> str:
    """Words alone, with a blank on either side, so that `in` finds whole words only."""
    found = re.findall(r"[^\W_]+", text.lower())
    return f" {' '.join(found)} "


def options_of(sample: Sample) -> dict[str, str]:
    """Letter → text of a sample's options."""
    options: dict[str, str] = dict(sample.attributes["options"])
    return options


def choice_scores(sample: Sample, answer: str, name: str, rule: ChoiceRule = "flexible") -> Scores:
    """`<name>_accuracy`, the same by kind of question, and `<name>_parse_failures`. The sample's answer is the right letter."""
    said = read_choice(answer, options_of(sample), rule)
    right = float(said == sample.answer)
    scores = {f"{name}_accuracy": (right, 1.0), f"{name}_parse_failures": (float(said is None), 1.0)}
    if sample.kind:
        scores[f"{name}_accuracy:{sample.kind}"] = (right, 1.0)
    return scores


def seed_bench_scores(sample: Sample, answer: str) -> Scores:
    """SEED-Bench's image part: accuracy over all questions, and by question type (Li et al., 2023)."""
    return choice_scores(sample, answer, "seed_image")


def science_qa_scores(sample: Sample, answer: str) -> Scores:
    """ScienceQA's questions with an image (SQA-I), read as LLaVA's script does; by subject too."""
    return choice_scores(sample, answer, "sqa_image", "published")


def mmbench_scores(answered: Sequence[tuple[Sample, str]], name: str = "mmbench") -> list[Scores]:
    """MMBench (Liu et al., 2023, section 4.2): `_accuracy` of the questions as they stand, `_circular` over all rotations.

    A question counts for `_circular` only if every rotation of its options (the samples of its group) is answered rightly. The
    group's score stands with the question as it was published, the sample whose attribute `rotation` is 0.
    """
    said = [read_choice(answer, options_of(sample)) for sample, answer in answered]
    whole: dict[str, bool] = {}
    for (sample, _), letter in zip(answered, said, strict=True):
        group = str(sample.attributes["group"])
        whole[group] = whole.get(group, True) and letter == sample.answer
    turned = any(sample.attributes["rotation"] for sample, _ in answered)
    scored = []
    for (sample, _), letter in zip(answered, said, strict=True):
        scores = {f"{name}_parse_failures": (float(letter is None), 1.0)}
        if sample.attributes["rotation"] == 0:
            right = float(letter == sample.answer)
            scores[f"{name}_accuracy"] = (right, 1.0)
            counted = float(whole[str(sample.attributes["group"])]) if turned else right
            if turned:
                scores[f"{name}_circular"] = (counted, 1.0)
            if sample.kind:
                scores[f"{name}_{'circular' if turned else 'accuracy'}:{sample.kind}"] = (counted, 1.0)
        scored.append(scores)
    return scored


def mmbench_cn_scores(answered: Sequence[tuple[Sample, str]]) -> list[Scores]:
    """The same for MMBench-CN."""
    return mmbench_scores(answered, "mmbench_cn")


def option_lines(options: Mapping[str, str]) -> str:
    """`A. first`, `B. second`, … one per line."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())
