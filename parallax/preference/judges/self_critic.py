"""SIMA's judge (arXiv 2405.15973, section 3.2): the policy itself compares two of its answers, with the image before it.

The released code always shows the sampled answer first, which mixes what the model prefers with where it stands. Here both
orders are asked by default and have to agree; what is left of a liking for the first place is counted and reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from parallax.models.generation.requests import GenerationRequest
from parallax.preference.critic_prompt import Use, load_critic_prompt, one_line
from parallax.preference.judge import Judge, Judgement
from parallax.preference.proposer import Ask, Generate
from parallax.preference.verdict import read_verdict
from parallax.records import Candidate, Decoding, Sample, ViewSpec, fingerprint, seed_for
from parallax.settings.ranges import Count, PromptFile

if TYPE_CHECKING:
    from parallax.models.policy import Policy

Order = Literal["both", "fixed", "random"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two candidates by their places in the group, in the order in which the critic sees them."""

    first: int
    second: int


class SelfCritic(Judge):
    """In-context self-criticism with a greedy verdict.

    Candidates with the same text are not compared. Of more than two candidates every two are compared, and a candidate's
    score is the number of comparisons it won minus the number it lost.

    Args:
        prompt: which texts: the name of a file in `conf/prompts/` or the path of a YAML file of the same form.
        order: `both` asks in both orders and takes a verdict only if they agree; `random` draws one order from the sample's
            seed and keeps it with the pair; `fixed` shows the later candidate (the sample) first, as the released code does.
        metrics, demonstrations: `auto` shows them where the prompt file has any, `always` insists, `never` leaves them out.
        ground_truth: `auto` shows the sample's true answer where it has one, `always` drops samples without, `never` hides it.
        max_new_tokens: tokens the criticism may have.
    """

    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "self_critic"

    def __init__(
        self,
        prompt: PromptFile,
        *,
        order: Order,
        metrics: Use = "auto",
        demonstrations: Use = "auto",
        ground_truth: Use = "auto",
        max_new_tokens: Count,
    ) -> None:
        self.prompt = load_critic_prompt(prompt)
        for key, value, there in (
            ("metrics", metrics, bool(self.prompt.metrics)),
            ("demonstrations", demonstrations, bool(self.prompt.demonstrations)),
            ("ground_truth", ground_truth, bool(self.prompt.truth_line)),
        ):
            if value == "always" and not there:
                raise ValueError(
                    f"judge.{key}=always, and the prompt {prompt} has no text for it; use auto or another prompt"
                )
        self.order, self.ground_truth, self.max_new_tokens = order, ground_truth, max_new_tokens
        self.metrics = metrics != "never" and bool(self.prompt.metrics)
        self.demonstrations = demonstrations != "never" and bool(self.prompt.demonstrations)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the verdicts but policy and seed, as plain data."""
        probe = self.prompt.text("q", "1", "2", "t", metrics=self.metrics, demonstrations=self.demonstrations)
        return {
            "judge": self.name,
            "prompt": fingerprint(probe),
            "order": self.order,
            "metrics": self.metrics,
            "demonstrations": self.demonstrations,
            "ground_truth": self.ground_truth,
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
        """Scores, or why there are none: `no_ground_truth`, `unreadable_verdict`, `tie`, `disagreement`."""
        plans = [self._plan(sample, group, seed) for sample, group in zip(samples, candidates, strict=True)]
        asks = [
            self._ask(sample, group, comparison, place)
            for sample, group, plan in zip(samples, candidates, plans, strict=True)
            for place, comparison in enumerate(plan)
        ]
        said = iter(generate(asks))
        return [
            self._decide(sample, group, [(comparison, next(said).text) for comparison in plan])
            for sample, group, plan in zip(samples, candidates, plans, strict=True)
        ]

    def words(self, counts: Mapping[str, int]) -> str:
        """One line about a build: how many verdicts, and the position bias."""
        total, readable = counts.get("verdicts", 0), counts.get("verdicts_first", 0) + counts.get("verdicts_second", 0)
        share = (
            f"{counts.get('verdicts_first', 0) / readable:.0%} of {readable:,} for the first place"
            if readable
            else "none readable"
        )
        return (
            f"self-critic: {total:,} verdicts, {share} (50% is no position bias), {counts.get('verdicts_tie', 0):,} ties, "
            f"{counts.get('verdicts_unreadable', 0):,} unreadable"
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _plan(self, sample: Sample, group: Sequence[Candidate], seed: int) -> list[Comparison]:
        if self.ground_truth == "always" and not sample.answer:
            return []
        texts = [one_line(candidate.text) for candidate in group]
        plan: list[Comparison] = []
        for place, (i, j) in enumerate(combinations(range(len(group)), 2)):
            if texts[i] == texts[j]:
                continue
            orders = [Comparison(j, i), Comparison(i, j)]
            if self.order == "fixed":
                orders = orders[:1]
            elif self.order == "random":
                orders = [orders[seed_for(seed, sample.id, "judge order", place) % 2]]
            plan.extend(orders)
        return plan

    def _ask(self, sample: Sample, group: Sequence[Candidate], comparison: Comparison, place: int) -> Ask:
        prompt = self.prompt.text(
            sample.question,
            group[comparison.first].text,
            group[comparison.second].text,
            sample.answer if self.ground_truth != "never" and sample.answer and self.prompt.truth_line else None,
            metrics=self.metrics,
            demonstrations=self.demonstrations,
        )
        decoding = Decoding(self.max_new_tokens)
        return Ask("verdict", place, GenerationRequest.about(sample, ViewSpec(), decoding, prompt))

    def _decide(self, sample: Sample, group: Sequence[Candidate], said: list[tuple[Comparison, str]]) -> Judgement:
        if self.ground_truth == "always" and not sample.answer:
            return Judgement(reason="no_ground_truth")
        if not said:  # all answers are equal; the selector's filters say so
            return Judgement(tuple(0.0 for _ in group))
        verdicts = [(comparison, read_verdict(text)) for comparison, text in said]
        counts = Counter({"verdicts": len(verdicts)}) + Counter(f"verdicts_{verdict}" for _, verdict in verdicts)
        notes = {
            "order": self.order,
            "comparisons": [
                {"first": comparison.first, "second": comparison.second, "verdict": verdict, "said": text}
                for (comparison, text), (_, verdict) in zip(said, verdicts, strict=True)
            ],
        }
        scores, reasons = [0.0] * len(group), []
        by_pair: dict[frozenset[int], list[int | str]] = {}
        for comparison, verdict in verdicts:
            places = {"first": comparison.first, "second": comparison.second}
            by_pair.setdefault(frozenset(places.values()), []).append(places.get(verdict, verdict))
        for pair, outcomes in by_pair.items():
            outcome = _agreed(outcomes)
            if isinstance(outcome, int):
                (loser,) = pair - {outcome}
                scores[outcome] += 1.0
                scores[loser] -= 1.0
            else:
                reasons.append(outcome)
        if len(reasons) == len(by_pair):
            reason = Counter(reasons).most_common(1)[0][0]
            return Judgement(reason=reason, detail=f"{len(said)} verdicts", notes=notes, counts=counts)
        return Judgement(tuple(scores), notes=notes, counts=counts)


def _agreed(outcomes: Sequence[int | str]) -> int | str:
    """The candidate all orders agree on, or why there is none."""
    if "unreadable" in outcomes:
        return "unreadable_verdict"
    if len(set(outcomes)) > 1:
        return "disagreement"
    return "tie" if outcomes[0] == "tie" else outcomes[0]
