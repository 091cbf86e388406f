"""The answers of samples that gave no pair: not in the pair set, but in the candidate store for as long as it is kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parallax.records import Candidate
from parallax.records.candidate_store import CandidateStore

log = logging.getLogger(__name__)

SAME = ("policy", "precision", "processor", "template", "generator")  # of all answers of one pair set


def answers_of_dropped(
    sample_ids: Sequence[str], recipes: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, list[Candidate]]:
    """Sample id → its answers that were made as the pairs' answers were, chosen role first. Absent where none is kept.

    Args:
        sample_ids: of the dropped samples.
        recipes: provenance of one response of each role of the pair set.
        folder: of the candidate store.
    """
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow import parquet

    if not sample_ids or not recipes or not folder.is_dir():
        return {}
    wanted = pyarrow.array(list(dict.fromkeys(sample_ids)))
    keys: list[str] = []
    for shard in sorted(folder.glob("*.parquet")):
        try:
            table = parquet.read_table(shard, columns=["key", "sample_id"])
        except (pyarrow.ArrowException, OSError) as error:
            log.warning("ignored %s: %s", shard, error)
            continue
        keys += table.filter(pc.is_in(table["sample_id"], value_set=wanted))["key"].to_pylist()
    found: dict[str, list[Candidate]] = {}
    for candidate in CandidateStore(folder).get_many(keys).values():
        if any(_made_alike(candidate, recipe) for recipe in recipes):
            found.setdefault(candidate.sample_id, []).append(candidate)
    order = [recipe.get("role") for recipe in recipes]
    return {name: sorted(said, key=lambda c: (order.index(c.role), c.index)) for name, said in found.items()}


def _made_alike(candidate: Candidate, recipe: Mapping[str, Any]) -> bool:
    """Whether only sample, seeds and index set the two apart."""
    spec, view, decoding = candidate.spec, recipe.get("view") or {}, dict(recipe.get("decoding") or {})
    ours = {name: getattr(spec.decoding, name) for name in decoding}
    decoding.pop("seed", None), ours.pop("seed", None)
    return (
        candidate.role == recipe.get("role")
        and all(getattr(spec, name) == recipe.get(name) for name in SAME)
        and (spec.view.name, dict(spec.view.params)) == (view.get("name"), view.get("params"))
        and decoding == ours
    )
