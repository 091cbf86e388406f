"""The data of a preference stage: pairs built on the fly with the current policy, then served as optimiser steps.

datamodule.build_pairs(policy, trainer)        # candidates from the cache or the policy, judged, selected, stored
datamodule.fill_reference(policy, batch_size)  # log-probs of the reference, from the cache or computed once
datamodule.epoch_loader(epoch, first_step)     # one `StepBatch` per optimiser step
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from datamodules.build import Outcome, outcomes_of_pairs, outcomes_of_samples
from datamodules.candidates import CandidateMaker
from datamodules.encoded_steps import PairBatches
from datamodules.formats.portions import Portions
from datamodules.formats.preference_file import PreferenceFileSource
from datamodules.further_columns import FurtherColumns
from datamodules.references import fill_references
from datamodules.report import BuildReport, bar
from datamodules.row_lengths import RowLengths, lengths_of_pairs
from datamodules.serving import StepDataModule
from datamodules.source import as_source
from parallax.models import processes
from parallax.models.generation.server import answerer_for
from parallax.preference.asker import Asker, GivenQuestions
from parallax.preference.caps import balance_lengths, cap
from parallax.preference.controls import apply_control
from parallax.preference.judge import Judge
from parallax.preference.looks import Look
from parallax.preference.proposer import PlannedProposer, Proposer
from parallax.preference.selector import Selector
from parallax.preference.token_weights import TokenWeights
from parallax.records import Dropped, PreferencePair, Sample, fingerprint
from parallax.records.candidate_store import CandidateStore
from parallax.records.disk_pairs import DiskPairs
from parallax.records.pair_store import PairSet
from parallax.records.reference_table import ReferenceTable
from parallax.records.skipped import SkippedLog
from parallax.settings.groups import Generation, Pairs, Trainer
from parallax.settings.shipped import shipped

if TYPE_CHECKING:
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)


class NoPairs(RuntimeError):
    """A build that kept nothing. The message says where the samples went."""


class PreferenceDataModule(StepDataModule):
    """Pairs of one stage.

    Args:
        source: samples, or a source whose `pairs` are ready-made.
        proposer, judge, selector: who asks, who scores, who decides.
        cache_dir: holds `candidates/`, `pairs/<key>/` and `references/`, shared by all runs.
        pairs: of the `pairs` group: max_per_source, max_pairs, repeat, control, max_skipped_share.
        trainer: of the `trainer` group: batch_size (pairs per step over all processes), micro_batch_size,
            micro_batch_tokens, group_by_length, num_workers.
        generation: of the `generation` group: batch_size, num_workers.
        reference_mode: `cached` fills reference log-probs into the batches, `live` leaves them out.
        seed: of the run.
        skipped: path of the run's skipped.jsonl; None keeps the list in memory.
        limit: only the first so many samples; None for all.
        limit_pairs: only the first so many kept pairs are trained on; None for all.
        asker: says which questions are asked; None for those of the source.
        looks, token_weights: what the objective asks for beside the pairs' own answers (see `Objective`).
        show_progress: draw progress bars where there is a terminal.
    """

    def __init__(
        self,
        source: Sequence[Sample],
        proposer: Proposer,
        judge: Judge,
        selector: Selector,
        *,
        cache_dir: Path | str,
        pairs: Pairs | None = None,
        trainer: Trainer | None = None,
        generation: Generation | None = None,
        reference_mode: str = "cached",
        seed: int = 0,
        skipped: Path | str | None = None,
        limit: int | None = None,
        limit_pairs: int | None = None,
        asker: Asker | None = None,
        looks: Sequence[Look] = (),
        token_weights: TokenWeights | None = None,
        show_progress: bool = True,
    ) -> None:
        self.settings = pairs or shipped(Pairs)
        super().__init__(trainer or shipped(Trainer), seed=seed, repeat=self.settings.repeat)
        self.source, self.proposer, self.judge, self.selector = as_source(source), proposer, judge, selector
        self.asker = asker or GivenQuestions()
        self.cache_dir = Path(cache_dir).expanduser()
        self.generation = generation or shipped(Generation)
        if reference_mode not in ("cached", "live"):
            raise ValueError(f"reference.mode is {reference_mode!r}; it can be cached or live")
        self.reference_mode, self.skipped_path = reference_mode, skipped
        self.limit, self.limit_pairs, self.show_progress = limit, limit_pairs, show_progress
        if limit is not None and isinstance(self.source, PreferenceFileSource):  # no row behind is read
            self.source.limit = min(limit, self.source.limit or limit)
        self.further = FurtherColumns(tuple(looks), token_weights, seed)
        self.pairs: Sequence[PreferencePair] = []
        self.pair_ids: list[str] = []
        self.dropped: list[Dropped] = []
        self.report: BuildReport | None = None
        self.judge_counts: Counter[str] = Counter()
        self.reference_log_probs: list[list[float]] | None = None
        self.references = {"computed": 0, "reused": 0}
        self._lengths: RowLengths | None = None

    @property
    def caps(self) -> dict[str, Any]:
        """Most pairs, of each source and of all."""
        return {"max_per_source": self.settings.max_per_source, "max_pairs": self._at_hand(self.settings.max_pairs)}

    def _at_hand(self, most: int | None) -> int | None:
        """A limit of pairs, of the portion at hand where there are several: its rows are its share of it."""
        return most if most is None or self.in_portions is None else self.in_portions.sizes[self.portion]

    @cached_property
    def in_portions(self) -> Portions | None:
        """Ready-made pairs of a large file come in portions, where no rule needs all pairs of the set at once."""
        rules = self.settings.length_balance or self.settings.max_per_source is not None or self.further.same_question
        if rules or not isinstance(self.source, PreferenceFileSource):
            return None
        wanted = [most for most in (self.settings.max_pairs, self.limit_pairs) if most is not None]
        return self.source.portions(self.batch_size, min(wanted, default=None))

    def steps_of_portions(self) -> list[int]:
        """Foreseen from how many pairs the largest portion's texts give, as the reader and the selector see them."""
        if self.in_portions is None or not isinstance(self.source, PreferenceFileSource):
            return super().steps_of_portions()
        rows = self.in_portions.places(self.in_portions.count - 1)
        self.source.take(rows)
        usable = sum(not isinstance(self.selector.check(pair), Dropped) for pair in self.source.pairs)
        most = len(rows) if (self.settings.max_pairs or self.limit_pairs) is not None else usable
        listed = max(1, min(usable, most)) * self.repeat
        return [-(-size * listed // (len(rows) * self.batch_size)) for size in self.in_portions.sizes]

    # -- building --------------------------------------------------------------------------------------------------

    def build_pairs(self, policy: Policy, trainer: pl.Trainer | None = None) -> BuildReport:
        """Build the pairs with the policy as it is now and store them. May be called again when the policy has changed.

        Raises `NoPairs` when nothing was kept and `TooManySkipped` when too many samples could not be used.
        """
        began = time.perf_counter()
        self._policy = policy
        if self.in_portions is not None and isinstance(self.source, PreferenceFileSource):
            rows, count = self.in_portions.rows, self.in_portions.count
            log.info("portion %d of %d of the file's %s rows (data.portion)", self.portion + 1, count, f"{rows:,}")
            self.source.take(self.in_portions.places(self.portion))
        ready_made = self.source.pairs
        total = len(self.source) if self.limit is None else min(self.limit, len(self.source))
        faulty = list(self.source.set_aside)
        for reason, count in self.source.left_out.items():
            log.info("%s: %s rows are left out (%s)", self.source.name, f"{count:,}", reason)
        skipped = SkippedLog(
            self.skipped_path if _is_first(trainer) else None, self.settings.max_skipped_share, total + len(faulty)
        )
        for item in faulty:
            skipped.add(item)
        maker = CandidateMaker(
            answerer_for(policy, self.generation, self.cache_dir),
            CandidateStore(self.cache_dir / "candidates"),
            trainer=trainer,
            batch_size=self.generation.batch_size,
            num_workers=self.generation.num_workers,
        )
        self.judge_counts = Counter()
        searched = self.proposer.built, self.proposer.reused  # a search counts its trees
        if ready_made is not None:
            given = outcomes_of_pairs(
                ready_made if total == len(ready_made) else ready_made[:total],
                selector=self.selector,
                encoder=policy.encoder,
                skipped=skipped,
                num_workers=self.num_workers,
                looks_at_images=self.further.looks_at_images,
            )
            self._keep(given)
        else:
            self._keep(self._outcomes(policy, total, maker, skipped))
        manifest = self._manifest(policy, total + len(faulty), skipped)
        key = self._store(manifest)
        self.report = BuildReport(
            samples=total + len(faulty),
            built=maker.built + self.proposer.built - searched[0],
            reused=maker.reused + self.proposer.reused - searched[1],
            kept=len(self.pairs),
            dropped=dict(Counter(dropped.reason for dropped in self.dropped).most_common()),
            skipped=skipped.counts(),
            seconds=time.perf_counter() - began,
            pair_set=self.pair_set_folder(key),
            key=key,
            wait_share=maker.counts.wait_share,
            judge=dict(self.judge_counts),
        )
        log.info(self.report.line())
        if self.judge_counts:
            log.info(self.judge.words(self.judge_counts))
        if not self.pairs:
            raise NoPairs(
                f"{self.report.line()}. No pair was kept, so there is nothing to learn from; {self._advice()}"
            )
        if (most := self._at_hand(self.limit_pairs)) is not None:
            self.pairs, self.pair_ids = self.pairs[:most], self.pair_ids[:most]
        self._pair_up()
        return self.report

    def pair_set_folder(self, key: str) -> Path:
        """Where the pair set of this key lies."""
        return self.cache_dir / "pairs" / key

    def fill_reference(self, policy: Policy, batch_size: int | None = None, trainer: pl.Trainer | None = None) -> int:
        """Look up or compute the reference log-probs of all pairs; needed before a fit with reference.mode=cached.

        Returns how many pairs had to be scored. The reference is the policy without what it has learned since it was loaded.
        """
        self._policy = self._policy or policy
        table = ReferenceTable(self.cache_dir / "references")
        with bar("reference log-probs", len(self.pairs), shown=self.show_progress) as progress:
            self.reference_log_probs, computed = fill_references(
                policy, self.pairs, self.pair_ids, table, passes=partial(self.passes, items=batch_size),
                further=self.further, num_workers=self.num_workers, trainer=trainer, progress=progress,
            )  # fmt: skip
        self.references = {"computed": computed, "reused": len(self.pairs) - computed}
        log.info(
            "reference log-probs: %s computed, %s reused from the cache",
            f"{computed:,}",
            f"{len(self.pairs) - computed:,}",
        )
        return computed

    # -- serving ---------------------------------------------------------------------------------------------------

    def row_lengths(self) -> RowLengths | None:
        """Tokens of every pair as the policy lays it out, counted once for each set of pairs."""
        if self._policy is None or not self.pairs:
            return None
        if self._lengths is None or len(self._lengths) != len(self.pairs):
            self._lengths = lengths_of_pairs(self._policy, self.pairs, self.further)
        return self._lengths

    def _count(self) -> int:
        return len(self.pairs)

    def _served(self) -> PairBatches:
        reference = self.reference_log_probs if self.reference_mode == "cached" else None
        if self.reference_mode == "cached" and reference is None:
            raise RuntimeError(
                "reference log-probs are missing; call fill_reference(policy) or use reference.mode=live"
            )
        if reference is not None and len(reference) != len(self.pairs):
            raise RuntimeError(
                "the pairs have changed since the reference was scored; call fill_reference(policy) again"
            )
        return self._batches(reference)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _batches(self, reference: list[list[float]] | None) -> PairBatches:
        if self._policy is None or not self.pairs:
            raise RuntimeError("there are no pairs yet; call build_pairs(policy, trainer) before asking for batches")
        return PairBatches(
            self.pairs, self.pair_ids, self._policy.encoder, reference, self._policy.features, self.further
        )

    def _pair_up(self) -> None:
        """Find every pair's partner where looks need one. Pairs without are dropped, and counted as `no_partner`."""
        self.further = self.further.with_partners_of(self.pairs, self.pair_ids)
        alone = {place for place, partner in enumerate(self.further.partners) if partner is None}
        if not alone:
            return
        kept = [place for place in range(len(self.pairs)) if place not in alone]
        if not kept:
            raise NoPairs(
                f"none of the {len(self.pairs)} pairs has a partner: another image with the same question and another answer. "
                "Use data that ask the same questions of many images, or a loss without a second image"
            )
        self.dropped += [
            Dropped(self.pairs[place].sample_id, self.pairs[place].source, "no_partner") for place in sorted(alone)
        ]
        log.info("%d of %d pairs have no partner and are left out", len(alone), len(self.pairs))
        self.pairs, self.pair_ids = [self.pairs[place] for place in kept], [self.pair_ids[place] for place in kept]
        self.further = self.further.with_partners_of(self.pairs, self.pair_ids)

    def _outcomes(self, policy: Policy, total: int, maker: CandidateMaker, skipped: SkippedLog) -> Iterator[Outcome]:
        samples = _first(self.source, total)
        answers = total
        if isinstance(self.proposer, PlannedProposer) and total:
            answers = total * len(self.proposer.requests(self.source[0], self.seed))
        with bar("answers", answers, shown=self.show_progress) as progress:
            maker.progress = progress
            yield from outcomes_of_samples(
                samples, policy=policy, proposer=self.proposer, judge=self.judge, selector=self.selector, maker=maker,
                skipped=skipped, seed=self.seed, counts=self.judge_counts, asker=self.asker,
            )  # fmt: skip

    def _keep(self, outcomes: Iterable[Outcome]) -> None:
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        made, ids, dropped = DiskPairs(folder=self.cache_dir), [], []
        for outcome in outcomes:
            if isinstance(outcome, Dropped):
                dropped.append(outcome)
            else:
                made.append(outcome)
                ids.append(outcome.id)
        kept: Sequence[PreferencePair] = made
        if self.settings.length_balance:
            kept, uneven = balance_lengths(kept)
            dropped += uneven
        if any(value is not None for value in self.caps.values()):
            kept, over = cap(kept, seed=self.seed, **self.caps)
            dropped += over
        if self.settings.control != "none":
            kept = apply_control(kept, self.settings.control, seed=self.seed)
        self.dropped = dropped
        self.pairs, self.pair_ids = kept, ids if kept is made else [pair.id for pair in kept]
        self.reference_log_probs, self._lengths = None, None

    def _manifest(self, policy: Policy, samples: int, skipped: SkippedLog) -> dict[str, Any]:
        return {
            "policy": {"name": policy.name, "fingerprint": policy.fingerprint(), "precision": policy.precision},
            "source": self.source.name,
            "samples": samples,
            "skipped": skipped.counts(),
            "proposer": self.proposer.settings(),
            "judge": self._judge_settings(),
            "selector": self.selector.settings(),
            "caps": {**self.caps, **({"length_balance": True} if self.settings.length_balance else {})},
            "control": self.settings.control,
            "seed": self.seed,
            "versions": _versions(),
            **({"asker": asker} if (asker := self.asker.settings()) else {}),
        }

    def _judge_settings(self) -> Any:
        """Settings and counts of a judge that has them, else its name."""
        described = self.judge.settings()
        if not described:
            return self.judge.name
        return {**described, "counts": dict(sorted(self.judge_counts.items()))}

    def _store(self, manifest: dict[str, Any]) -> str:
        key = fingerprint(
            {
                "manifest": manifest,
                "pairs": [[pair_id, pair.sample_id] for pair_id, pair in zip(self.pair_ids, self.pairs, strict=True)],
                "dropped": [[dropped.sample_id, dropped.reason] for dropped in self.dropped],
            }
        )
        if processes.is_first():
            PairSet(self.pair_set_folder(key)).write(self.pairs, self.dropped, manifest)
        processes.barrier()
        return key

    def _advice(self) -> str:
        assert self.report is not None
        dropped = self.report.dropped
        most = next(iter(dropped), "")
        if not dropped.keys().isdisjoint(("disagreement", "unreadable_verdict", "tie")):  # it kept none that it judged
            return (
                f"the judge could not tell the answers apart ({self.judge_counts.get('verdicts_first', 0):,} of "
                f"{self.judge_counts.get('verdicts', 0):,} verdicts were for the first place); use a model that can judge, or "
                "judge.order=random to take verdicts that nothing confirms"
            )
        if most == "equal" and self.proposer.view is None:
            return "the answers to a question are all the same: sample at a higher temperature, or more often"
        if most == "equal":
            return "the corrupted images change no answer: raise aug.noise_steps or choose a stronger view with aug=…"
        if most:
            return "look at the reasons above, and at dropped.parquet in the pair set"
        if self.report.skipped or self.source.left_out:
            return "look at the reasons above; task=check_data shows rows"
        return "look at the source: it is empty"


def _first(source: Sequence[Sample], total: int) -> Iterable[Sample]:
    for place, sample in enumerate(source):
        if place == total:
            return
        yield sample


def _is_first(trainer: pl.Trainer | None) -> bool:
    return trainer is None or trainer.global_rank == 0


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "pillow")}
