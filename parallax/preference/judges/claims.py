"""RLAIF-V's judge (arXiv 2405.17220, section 3.2): answers are taken apart into claims that the policy is asked about one by one,
with the image before it. An answer's score is minus the number of claims that are denied.

Every step is asked for all answers of all samples at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from parallax.models.generation.requests import GenerationRequest
from parallax.models.scoring.first_words import first_word_probabilities
from parallax.preference.claim_prompt import listed, load_claim_prompt
from parallax.preference.judge import UNSCORED, Judge, Judgement
from parallax.preference.proposer import Ask, Generate, Unanswerable
from parallax.preference.verdict import read_yes_no
from parallax.records import Candidate, Decoding, Sample, ViewSpec, fingerprint
from parallax.records.shard_folder import KeyedStore
from parallax.settings.ranges import Count, NotNegative, PromptFile

if TYPE_CHECKING:
    from parallax.models.policy import Policy

YES, NO = ("Yes", "yes"), ("No", "no")


@dataclass
class _Apart:
    """An answer that is being taken apart."""

    sample: Sample
    text: str
    claims: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    replies: list[str | float] = field(default_factory=list)  # what was said, or how likely yes is

    def notes(self) -> list[dict[str, Any]]:
        """The claims with their questions and verdicts, as plain data."""
        return [
            {
                "claim": claim,
                "question": question,
                "said": reply if isinstance(reply, str) else f"{reply:.3f}",
                "holds": reply > 0.5 if isinstance(reply, float) else read_yes_no(reply),
            }
            for claim, question, reply in zip(self.claims, self.questions, self.replies, strict=True)
        ]


class Claims(Judge):
    """Counts what the policy, asked about it, denies of an answer.

    An answer without claims, or none of whose replies says yes or no, has no score and stands in no pair.

    Args:
        prompt: which texts: the name of a file in `conf/prompts/` or the path of a YAML file of the same form.
        by: `words` reads yes or no in a reply. `probability` compares p(Yes) + p(yes) with p(No) + p(no) at its first token,
            as the released code does; a claim is confirmed where yes is more likely.
        score: `count` is bonus · confirmed - denied; `share` divides that by the number of claims; `mean_probability` is the mean
            probability of yes, and needs `by="probability"`.
        bonus: points for each claim confirmed.
        max_new_tokens: tokens that a list of claims or a reply may have.
        batch_size: questions scored at once with `by="probability"`.
        cache_dir: probabilities are kept in `first_words/` below it; None keeps nothing.
    """

    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "claims"

    def __init__(
        self,
        prompt: PromptFile,
        *,
        by: Literal["words", "probability"] = "words",
        score: Literal["count", "share", "mean_probability"],
        bonus: NotNegative = 0.0,
        max_new_tokens: Count,
        batch_size: Count = 128,
        cache_dir: str | Path | None = None,
    ) -> None:
        if score == "mean_probability" and by != "probability":
            raise ValueError(f"judge.score=mean_probability needs judge.by=probability, and judge.by is {by}")
        self.prompt = load_claim_prompt(prompt)
        self.by, self.score, self.bonus = by, score, bonus
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.store = KeyedStore(Path(cache_dir).expanduser() / "first_words") if cache_dir is not None else None

    def settings(self) -> dict[str, Any]:
        """Everything that decides the verdicts but the policy, as plain data."""
        texts = fingerprint([self.prompt.check, self.prompt.pattern, self.prompt.split, self.prompt.ask])
        return {
            "judge": self.name,
            "prompt": texts,
            "by": self.by,
            "score": self.score,
            "bonus": self.bonus,
            "max_new_tokens": self.max_new_tokens,
        }

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> list[Judgement]:
        """Scores, with the claims of each answer beside it: `{"claims": [{claim, question, said, holds}, …]}`."""
        pairs = list(zip(samples, candidates, strict=True))
        apart = {
            (place, text): _Apart(sample, text)
            for place, (sample, group) in enumerate(pairs)
            for text in dict.fromkeys(candidate.text for candidate in group)
        }
        self._find_claims(list(apart.values()), generate)
        self._check(policy, list(apart.values()), generate)
        return [self._judgement([apart[place, c.text] for c in group]) for place, (_, group) in enumerate(pairs)]

    def words(self, counts: Mapping[str, int]) -> str:
        """One line about a build."""
        return (
            f"claims: {counts.get('claims', 0):,} claims of {counts.get('answers', 0):,} answers, "
            f"{counts.get('confirmed', 0):,} confirmed, {counts.get('denied', 0):,} denied, "
            f"{counts.get('unreadable', 0):,} unreadable; {counts.get('unscored', 0):,} answers without a score"
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _find_claims(self, apart: Sequence[_Apart], generate: Generate) -> None:
        if self.prompt.pattern:
            for answer in apart:
                answer.claims = self.prompt.found(answer.text)
        else:
            told = [answer for answer in apart if answer.text.strip()]
            asks = [self._ask(a.sample, "claims", self.prompt.split_text(a.sample.question, a.text)) for a in told]
            for answer, said in zip(told, generate(asks), strict=True):
                answer.claims = list(dict.fromkeys(listed(said.text)))
        for answer in apart:
            answer.questions = list(answer.claims)
        if self.prompt.ask:
            claiming = [answer for answer in apart if answer.claims]
            asks = [self._ask(a.sample, "questions", self.prompt.ask_text(a.claims)) for a in claiming]
            for answer, said in zip(claiming, generate(asks), strict=True):
                answer.questions = listed(said.text)
                if len(answer.questions) != len(answer.claims):  # which belongs to which is not known
                    answer.claims, answer.questions = [], []
        for answer in apart:
            both = zip(answer.claims, answer.questions, strict=True)
            answer.questions = [self.prompt.check_text(claim, question) for claim, question in both]

    def _check(self, policy: Policy, apart: Sequence[_Apart], generate: Generate) -> None:
        asked = [(answer, question) for answer in apart for question in answer.questions]
        asks = [self._ask(answer.sample, "verdict", question) for answer, question in asked]
        replies: Iterator[str | float]
        if self.by == "words":
            replies = (said.text for said in generate(asks))
        else:
            replies = iter(self._probabilities(policy, asks))
        for (answer, _), reply in zip(asked, replies, strict=True):
            answer.replies.append(reply)

    def _probabilities(self, policy: Policy, asks: Sequence[Ask]) -> list[float]:
        """How likely yes is, of yes and no."""
        why: dict[str, str] = {}
        found = first_word_probabilities(
            policy, [ask.request for ask in asks], [*YES, *NO], store=self.store, batch_size=self.batch_size, why=why
        )
        if why:
            raise Unanswerable(why)
        return [sum(row[: len(YES)]) / (sum(row) or 1.0) for row in found]

    def _ask(self, sample: Sample, role: str, text: str) -> Ask:
        return Ask(role, 0, GenerationRequest.about(sample, ViewSpec(), Decoding(self.max_new_tokens), text))

    def _judgement(self, group: Sequence[_Apart]) -> Judgement:
        scores, each, counts = [], [], Counter({"answers": len(group)})
        for answer in group:
            notes = answer.notes()
            yes, no = (sum(note["holds"] is side for note in notes) for side in (True, False))
            points = self.bonus * yes - no
            likely = sum(reply for reply in answer.replies if isinstance(reply, float))
            value = {
                "count": points,
                "share": points / max(1, yes + no),
                "mean_probability": likely / max(1, len(notes)),
            }
            scores.append(value[self.score] if yes + no else UNSCORED)
            each.append({"claims": notes})
            counts.update(claims=len(notes), confirmed=yes, denied=no, unreadable=len(notes) - yes - no)
            counts["unscored"] += not yes + no
        return Judgement(tuple(scores), each=tuple(each), counts=counts)
