"""The task `check_judge`: does the judge prefer the answer that is truer to the image?

    python run.py task=check_judge method=sima                        # between the method's own answers
    python run.py task=check_judge method=sima task.answers=corrupted # between descriptions that are right and wrong by design

Needs data whose objects are known. Of each sample the best and the worst candidate by the judge's scores are compared with the
truth: fewer hallucinated mentions, else more of what is there (`parallax/evaluation/agreement.py`), or the right
answer to a short question.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from omegaconf import DictConfig, OmegaConf

from datamodules.build import judged_samples
from datamodules.candidates import CandidateMaker
from datamodules.shapes.language import corrupted, mentioned_objects, same_answer
from datamodules.shapes.questions import DESCRIBERS, SHORT_KINDS
from datamodules.shapes.scene import Scene, generator
from parallax.evaluation.agreement import agreement, true_preference
from parallax.models.devices import pick_device
from parallax.preference.proposer import Generate, Proposer
from parallax.records import Candidate, Decoding, Dropped, GenerationSpec, ViewSpec
from parallax.records.atomic import atomic_write_json
from parallax.records.candidate_store import CandidateStore
from parallax.records.skipped import SkippedLog
from parallax.reports.environment import write_environment
from parallax.reports.run_log import run_log
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task
from parallax.settings.ranges import Count
from parallax.settings.stages import preference_stage
from parallax.tasks.parts import make_datamodule, make_policy

if TYPE_CHECKING:
    from parallax.models.policy import Policy
    from parallax.preference.judge import Judgement
    from parallax.records import Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("pairs", "data", "model")

    answers: Literal["own", "corrupted"]
    samples: Count


def run(cfg: DictConfig) -> dict[str, Any]:
    """Judge, compare, write `judge.json` into the run folder. Returns its content under `judge`."""
    stage = preference_stage(cfg)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder = Path(config["paths"]["output_dir"])
    with run_log(folder):
        write_environment(folder, config)
        device = pick_device(config["trainer"]["accelerator"])
        policy = make_policy(config, stage.lora, adapter=config["adapter"], device=device)
        module = make_datamodule(stage, config, folder)
        samples = [s for s in islice(module.source, int(config["task"]["samples"])) if s.objects is not None]
        if not samples:
            raise ConfigError(
                "task=check_judge: no sample of `data` says which objects are in its image; use data=shapes"
            )
        maker = CandidateMaker(
            policy, CandidateStore(module.cache_dir / "candidates"), batch_size=stage.generation.batch_size
        )
        proposer = Corrupted() if config["task"]["answers"] == "corrupted" else module.proposer
        skipped = SkippedLog(folder / "skipped.jsonl", total=len(samples))
        judged = judged_samples(
            samples, policy=policy, proposer=proposer, judge=module.judge, maker=maker, skipped=skipped, seed=int(config["seed"])
        )  # fmt: skip
        content = compared([found for found in judged if not isinstance(found, Dropped)])
        log.info("%s: %s", module.judge.name, content["words"])
        if content["counts"]:
            log.info(module.judge.words(content["counts"]))
        atomic_write_json(folder / "judge.json", content)
    return {"judge": content}


def compared(judged: Sequence[tuple[Sample, Sequence[Candidate], Judgement]]) -> dict[str, Any]:
    """The agreement with the truth as plain data: share, interval, counts, and a sentence."""
    decisions: list[int | None] = []
    truths: list[int | None] = []
    counts: Counter[str] = Counter()
    for sample, group, own in judged:
        counts.update(own.counts)
        scores = own.scores or (0.0,) * len(group)
        if len(group) < 2:
            continue
        scored = [place for place, score in enumerate(scores) if not isnan(score)] or [0]
        best = max(scored, key=lambda i: scores[i])
        worst = min(reversed(scored), key=lambda i: scores[i])
        decided = scores[best] > scores[worst]
        pair = (best, worst) if decided else (0, len(group) - 1)
        decisions.append(0 if decided else None)
        truths.append(_truth(sample, [group[place].text for place in pair]))
    found = agreement(decisions, truths)
    without = sum(truth is None for truth in truths)
    return {
        "agreement": found.share,
        **found.as_data(),
        "samples": len(judged),
        "without_truth": without,
        "counts": dict(sorted(counts.items())),
        "words": f"{found.words()}; of {len(judged)} pairs {without} are equally true",
    }


def _truth(sample: Sample, texts: Sequence[str]) -> int | None:
    """0 or 1, whichever of two answers is truer; None for neither. Short questions of that world have one right answer."""
    if sample.kind in SHORT_KINDS and "scene" in sample.attributes:
        right = [same_answer(sample.kind, text, sample.answer or "") for text in texts]
        return None if right[0] == right[1] else right.index(True)
    return true_preference(mentioned_objects(texts[0]), mentioned_objects(texts[1]), sample.objects or ())


class Corrupted(Proposer):
    """Not the model's answers but known ones: the true description, and the same with one to three things wrong."""

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """The true answer and a wrong one, in an order drawn per sample."""
        return [self._pair(sample, seed) for sample in samples]

    def _pair(self, sample: Sample, seed: int) -> list[Candidate]:
        if sample.kind not in DESCRIBERS or "scene" not in sample.attributes:
            raise ConfigError(
                "task.answers=corrupted describes scenes of the built-in world: use data=shapes data.kinds=[describe]"
            )
        rng = generator("check judge", seed, sample.id)
        scene = Scene.from_json(dict(sample.attributes["scene"]))
        describe = DESCRIBERS[sample.kind]
        texts = [describe(scene), describe(corrupted(scene, rng, int(rng.integers(1, 4))))]
        if rng.random() < 0.5:
            texts.reverse()
        spec = GenerationSpec(
            "", "", "", "", sample.image.digest(), sample.question, ViewSpec(), Decoding(1), "corrupted"
        )
        return [
            Candidate(spec.key(), sample.id, "sample", place, (), text, True, spec) for place, text in enumerate(texts)
        ]
