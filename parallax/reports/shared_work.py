"""What a set of runs did anew and what they found done: answers, reference log-probs, evaluations. From the files they left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class SharedWork:
    """Counts over all runs."""

    runs: int = 0
    generated: int = 0  # answers
    reused: int = 0  # answers found in the cache
    references_computed: int = 0  # pairs whose reference log-probs were scored
    references_reused: int = 0
    evaluations: int = 0
    evaluations_reused: int = 0  # of which every answer was found in the cache

    def line(self) -> str:
        """E.g. `9 runs: answers 640 generated, 2,240 reused; reference log-probs 307 computed, 701 reused; …`."""
        parts = [f"answers {self.generated:,} generated, {self.reused:,} reused"]
        if self.references_computed or self.references_reused:
            parts.append(
                f"reference log-probs {self.references_computed:,} computed, {self.references_reused:,} reused"
            )
        if self.evaluations:
            parts.append(
                f"evaluations {self.evaluations - self.evaluations_reused:,} made, {self.evaluations_reused:,} reused"
            )
        return f"{self.runs} {'run' if self.runs == 1 else 'runs'}: {'; '.join(parts)}"


def shared_work(folders: Sequence[Path]) -> SharedWork:
    """Add up the runs in these folders; a folder without results counts nothing."""
    work = SharedWork()
    for folder in folders:
        pairs = _json(folder / "results.json").get("pairs")
        if pairs is None:
            continue
        work.runs += 1
        work.generated += int(pairs.get("built", 0))
        work.reused += int(pairs.get("reused", 0))
        for path in sorted(folder.glob("stages/**/fit.json")):
            references = _json(path).get("references") or {}
            work.references_computed += int(references.get("computed", 0))
            work.references_reused += int(references.get("reused", 0))
        for path in sorted(folder.glob("stages/**/eval_*.json")):
            work.evaluations += 1
            work.evaluations_reused += bool((_json(path).get("meta") or {}).get("reused"))
    return work


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
