"""Askers say which questions pairs are built on: those of the data, or questions about the images that the policy writes itself.

SENA (arXiv 2412.15650, section 3.1) starts from images alone: the policy writes a question, is asked whether the picture answers
it, and answers it; a request for a description goes with each question. What was asked and said is kept like all other answers.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parallax.models.generation.requests import GenerationRequest
from parallax.preference.critic_prompt import fill
from parallax.preference.prompts import PromptPool
from parallax.preference.proposer import Ask, Generate
from parallax.preference.proposers.follow_up import template
from parallax.records import ASKED, Decoding, Dropped, Sample, ViewSpec
from parallax.settings.part import Part
from parallax.settings.ranges import AnyText, Count, Texts

Asked = list[Sample] | Dropped


class Asker(Part, ABC):
    """Samples → samples with questions."""

    @abstractmethod
    def asked(self, samples: Sequence[Sample], *, seed: int, generate: Generate) -> list[Asked]:
        """For each sample the samples that it becomes, in order, or why it becomes none."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the questions but the seed, as plain data; nothing for those of the data."""
        return {}


class GivenQuestions(Asker):
    """The questions of the data as they are."""

    def asked(self, samples: Sequence[Sample], *, seed: int, generate: Generate) -> list[Asked]:
        return [[sample] for sample in samples]


class SelfAsked(Asker):
    """Questions that the policy writes about each image, and requests for a description beside them.

    Args:
        ask: invite a question; each image draws one of them.
        check: shown a question ({question}), repeats it where the picture answers it, else writes another; None asks no such
            thing. The released code sends this without the image; here the image is shown.
        describe: requests for a description: each question brings a sample of kind `des` with one of them; empty for none.
        briefly, in_a_word: orders put behind requests for a description and behind questions.
        pattern: None reads the sentences that end in "?". A regular expression reads what it matches instead, and `wordings` make
            the questions: for a model that cannot write any, from what it names.
        wordings: questions that know {thing}; each match draws one.
        unwanted: questions with one of these words are left out, such as "name": who somebody is, a picture seldom says.
        most: questions per image, at most; None for all.
        max_new_tokens: token limit of what the policy writes.
    """

    def __init__(
        self,
        ask: Texts,
        check: str | None = None,
        *,
        describe: Texts = (),
        briefly: AnyText = "",
        in_a_word: AnyText = "",
        pattern: str | None = None,
        wordings: Sequence[str] = (),
        unwanted: Sequence[str],
        most: Count | None = None,
        max_new_tokens: Count,
    ) -> None:
        if pattern is not None and not wordings:
            raise ValueError("asker.pattern finds things and asker.wordings is empty; give questions that know {thing}")
        self.ask = PromptPool([ask] if isinstance(ask, str) else list(ask), "ask")
        self.check = None if check is None else template(check, "asker.check", "question")
        self.describe = [describe] if isinstance(describe, str) else list(describe)
        self.briefly, self.in_a_word, self.pattern, self.most = briefly, in_a_word, pattern, most
        self.wordings = [template(text, "asker.wordings", "thing") for text in wordings]
        self.unwanted, self.max_new_tokens = list(unwanted), max_new_tokens

    def settings(self) -> dict[str, Any]:
        given = {name: list(value) if isinstance(value, PromptPool) else value for name, value in vars(self).items()}
        return {"asker": type(self).__name__, **given}

    def asked(self, samples: Sequence[Sample], *, seed: int, generate: Generate) -> list[Asked]:
        """Reasons: `no_question` for a reply without any, `unwanted_question`, `unanswerable` for a failed check."""
        said = generate([self._ask(sample, 0, self.ask.draw(seed, sample.id)) for sample in samples])
        found = [self._questions(sample, reply.text, seed) for sample, reply in zip(samples, said, strict=True)]
        wanted = [[question for question in questions if not self._is_unwanted(question)] for questions in found]
        kept = [questions[: self.most] for questions in wanted]
        if self.check is not None:
            checks = [
                self._ask(sample, k, fill(self.check, {"question": question}))
                for sample, questions in zip(samples, kept, strict=True)
                for k, question in enumerate(questions)
            ]
            replies = iter(generate(checks))
            kept = [self._checked([next(replies).text for _ in questions]) for questions in kept]
        return [
            self._samples(sample, questions, seed)
            or Dropped(
                sample.id, sample.source, "no_question" if not some else "unanswerable" if left else "unwanted_question"
            )
            for sample, questions, some, left in zip(samples, kept, found, wanted, strict=True)
        ]

    def _ask(self, sample: Sample, k: int, prompt: str) -> Ask:
        return Ask("question", k, GenerationRequest.about(sample, ViewSpec(), Decoding(self.max_new_tokens), prompt))

    def _questions(self, sample: Sample, text: str, seed: int) -> list[str]:
        if self.pattern is None:
            return questions_in(text)
        things = dict.fromkeys(found.group().lower() for found in re.finditer(self.pattern, text, re.IGNORECASE))
        pool = PromptPool(self.wordings, "wordings")
        return [fill(pool.draw(seed, sample.id, k), {"thing": thing}) for k, thing in enumerate(things)]

    def _is_unwanted(self, question: str) -> bool:
        return any(re.search(rf"\b{re.escape(word)}s?\b", question, re.IGNORECASE) for word in self.unwanted)

    def _checked(self, replies: Sequence[str]) -> list[str]:
        found = (question for reply in replies for question in questions_in(reply)[:1])
        return [question for question in dict.fromkeys(found) if not self._is_unwanted(question)]

    def _samples(self, sample: Sample, questions: Sequence[str], seed: int) -> list[Sample]:
        made = []
        pool = PromptPool(self.describe, "describe") if self.describe else None
        for k, question in enumerate(questions):
            if pool is not None:
                made.append(("des", f"{pool.draw(seed, sample.id, k)} {self.briefly}".strip()))
            made.append(("gen", f"{question} {self.in_a_word}".strip()))
        turn, *_ = sample.turns
        return [
            replace(sample, id=f"{sample.id}{ASKED}{k}", kind=kind, turns=(replace(turn.asking(text), answer=None),))
            for k, (kind, text) in enumerate(dict.fromkeys(made))
        ]


def questions_in(text: str) -> list[str]:
    """The sentences of a text that end in a question mark, each once. A label before a colon is taken off.

    >>> questions_in("Question: What is on the table? It is a good one. How many cups are there?")
    ['What is on the table?', 'How many cups are there?']
    """
    sentences = re.findall(r"[^.!?\n]+[.!?]?", text)
    asked = (sentence.strip() for sentence in sentences if sentence.rstrip().endswith("?"))
    return list(dict.fromkeys(re.sub(r"^[\w ]{1,20}: *", "", sentence) for sentence in asked))
