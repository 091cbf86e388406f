"""Parts that are not written as docs/extending.md writes them, but as people write Python, are taken and checked all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_extending import SMALL, copy, tell

__all__ = ["copy"]
SCENES = """
    samples: {_target_: datamodules.shapes.source.ShapesSource, split: eval_habit_free, size: 4, seed: 0,
              kinds: [describe], start: 0}
"""
FILES = {
    # a package folder, relative imports, a star, a module imported as a whole, Enum, Optional, keyword-only fields
    "augment/swirl/__init__.py": "from .core import *\n",
    "augment/swirl/core.py": """
from __future__ import annotations
import dataclasses, enum
import typing as t
from .. import view as base
from ..view import ActsOn
from parallax.settings import ranges

class Way(enum.Enum):
    LEFT = "left"
    RIGHT = "right"

@dataclasses.dataclass(frozen=True, kw_only=True)
class Swirl(base.View):
    name: t.ClassVar[str] = "swirl"
    acts_on: t.ClassVar[ActsOn] = "tensor"
    way: Way = Way.LEFT
    strength: "t.Optional[ranges.Share]" = 0.5
    steps: t.List[ranges.Count] = dataclasses.field(default_factory=lambda: [1, 2])

    def on_tensor(self, pixels, generator):
        return pixels.roll(sum(self.steps) if self.way is Way.RIGHT else -1, -1) * (1 - (self.strength or 0))
""",
    "conf/aug/swirl.yaml": "# Swirls.\n_target_: augment.swirl.Swirl\n",
    # a function that makes a part, `functools.partial`, another name for a class
    "augment/dusk.py": """
from functools import partial
from augment.occlusion import PixelMask
from parallax.settings.ranges import Share
from .diffusion import Diffusion

def dusk(strength: Share = 0.3) -> PixelMask:
    return PixelMask(strength)

MildNoise = partial(Diffusion, noise_steps=100)
Noise = Diffusion
""",
    "conf/aug/dusk.yaml": "# Dusk.\n_target_: augment.dusk.dusk\nstrength: 0.2  # how dark\n",
    "conf/aug/mild.yaml": "# Mild noise.\n_target_: augment.dusk.MildNoise\n",
    "conf/aug/noise.yaml": "# Noise.\n_target_: augment.dusk.Noise\nnoise_steps: 300  # of the schedule\n",
    "lightning_modules/objectives/odd.py": """
import math
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from functools import partial
from typing import Annotated, ClassVar, Dict, List, Literal, Mapping, Optional, Union
import annotated_types as at
import lightning_modules.objectives.base
from . import base
from .base import Objective, log_ratios
from parallax.settings.ranges import Positive, Share

class Norm(str, Enum):
    SUM = "sum"
    MEAN = "mean"

class Kind(StrEnum):
    HARD = auto()
    SOFT = auto()

class Limits:
    MOST = 5.0

@dataclass
class Odd(base.Objective):
    pairs_only: ClassVar[bool] = True
    beta: Positive = 0.1
    norm: Norm = Norm.SUM
    kind: Kind = Kind.HARD
    margin: Union[float, Literal["auto"]] = "auto"
    weights: Dict[str, Share] = field(default_factory=dict)
    steps: Annotated[List[Positive], at.Len(1, 3)] = field(default_factory=lambda: [1.0])
    top: Annotated[float, at.Le(Limits.MOST)] = 1.0
    half: Annotated[float, at.Lt(math.pi)] = 1.0
    schedule: Mapping[Literal["a", "b"], float] = field(default_factory=dict)

    def losses(self, policy, reference, lengths):
        assert isinstance(self.norm, Norm) and isinstance(self.kind, Kind)
        ratios = log_ratios(policy, reference)
        return -self.beta * (ratios[:, 0] - ratios[:, 1]), {}

class Sharp(lightning_modules.objectives.base.DPO):
    def __init__(self, *, sharpness: Annotated[float, at.Interval(ge=1, le=9)] = 2.0,
                 inner: Optional[Objective] = None, **others):
        super().__init__(**others)
        self.sharpness, self.inner = sharpness, inner

Sharper = partial(Sharp, sharpness=3.0)

def made(beta: Positive, *, tries: Annotated[int, at.Ge(1)] = 1) -> "Odd":
    return Odd(beta=beta)
""",
    "conf/loss/odd.yaml": "# Odd.\n_target_: lightning_modules.objectives.odd.Odd\n",
    "conf/loss/sharp.yaml": """# Sharp.
_target_: lightning_modules.objectives.odd.Sharp
beta: 0.1  # pull
inner: {_target_: lightning_modules.objectives.odd.Odd, norm: mean}
""",
    "conf/loss/sharper.yaml": "# Sharper.\n_target_: lightning_modules.objectives.odd.Sharper\nbeta: 0.2  # pull\n",
    "conf/loss/made.yaml": "# Made by a function.\n_target_: lightning_modules.objectives.odd.made\nbeta: 0.2  # pull\n",
    # parts inside a part, one of them called as another kind of part is, the other with a method of its own
    "parallax/preference/judges/wordy/__init__.py": """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Sequence
from ...judge import Judge
from ....settings.ranges import NotNegative
if TYPE_CHECKING:
    from parallax.models.policy import Policy

@dataclass
class Vocabulary:
    words: Sequence[str]
    bonus: NotNegative = 1.0

    def count(self, text):
        return self.bonus * sum(word in text for word in self.words)

@dataclass(eq=False)
class Wordy(Judge):
    vocabulary: Vocabulary
    base: Optional[Judge] = None
    fine: NotNegative = 0.1

    def judge(self, policy: Policy, samples, candidates, *, seed, generate):
        return [[self.vocabulary.count(one.text) - self.fine * len(one.token_ids) for one in group] for group in candidates]
""",
    "conf/judge/wordy.yaml": """# Wordy.
_target_: parallax.preference.judges.wordy.Wordy
vocabulary:
  _target_: parallax.preference.judges.wordy.Vocabulary
  words: [red, blue]  # words that are liked
  bonus: 2  # each
base:
  _target_: parallax.preference.judges.wordy.Wordy
  vocabulary: {_target_: parallax.preference.judges.wordy.Vocabulary, words: [green]}
""",
    "parallax/preference/proposers/hotter.py": """
from typing import Annotated, Literal, Sequence
from annotated_types import Len
from .by_view import ByView
from parallax.settings.ranges import Positive

class Hotter(ByView):
    def __init__(self, view, *, heats: Annotated[Sequence[Positive], Len(1, 4)] = (1.0,),
                 mode: Literal["add", "times"] = "add", **others):
        super(Hotter, self).__init__(view, **others)
""",
    "conf/method/hotter.yaml": """# @package _global_
# Hotter.
defaults: [seva, _self_]
method: {name: hotter}
stages:
  align:
    proposer:
      _target_: parallax.preference.proposers.hotter.Hotter
      view: ${aug}
      max_new_tokens: ${generation.max_new_tokens}
""",
    "parallax/preference/selectors_of_mine/__init__.py": "from .first import First\n",
    "parallax/preference/selectors_of_mine/first.py": """
from typing import Optional
from parallax.preference import selector
from parallax.settings.ranges import Count, Share

class First(selector.BestAgainstRest):
    def __init__(self, *, share: Optional[Share] = None, num_negatives: Count = 1, limits: Optional[dict[str, Count]] = None):
        super().__init__(num_negatives)
""",
    "conf/selector/first.yaml": "# First.\n_target_: parallax.preference.selectors_of_mine.First\nshare: 0.5  # of pairs\n",
    "datamodules/formats/mine/__init__.py": """
from enum import Enum
from typing import Optional, Tuple
from .. import listed
from ..listed import Listed, image_path
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingPath, Share

class Order(Enum):
    GIVEN = 1
    BACK = 2

class Mine(Listed):
    def __init__(self, path: ExistingPath, *, image_root: ExistingPath, order: Order = Order.GIVEN, limit: Optional[Count] = None,
                 span: Tuple[Share, Share] = (0.0, 1.0), name: str = "mine"):
        super().__init__(path, name, limit)
        self.image_root, self.order = listed.existing_root(image_root), order

    def _read(self):
        lines = [line.split("\\t") for line in self.path.read_text("utf-8").splitlines() if "\\t" in line]
        made = [Sample(image, self.name, FileImage(str(self.image_root), image_path(image)), (Turn(question, answer),))
                for image, question, answer in lines]
        return made[::-1] if self.order is Order.BACK else made
""",
    "conf/data/mine.yaml": """# Mine.
_target_: datamodules.formats.mine.Mine
path: ???  # the file
image_root: ???  # the folder
""",
    "parallax/evaluation/lexical/__init__.py": "from parallax.evaluation.lexical.distinct import DistinctSuite, distinct_suite\n",
    "parallax/evaluation/lexical/distinct.py": """
from dataclasses import dataclass
from typing import Iterable, Literal, Optional
from ..suites import Scores, Suite
from parallax.records import Sample
from parallax.settings.ranges import Count

class DistinctSuite(Suite):
    def __init__(self, samples: Iterable[Sample], *, name: str = "distinct", n: Literal[1, 2, 3] = 1,
                 sizes: Optional[list[Count]] = None):
        super().__init__(samples, name, 20, prefix="")
        self.n = n

    def score(self, sample, answer):
        words = answer.lower().split()
        return {f"distinct_{self.n}": (float(len(set(zip(*(words[k:] for k in range(self.n)))))), float(len(words)))}

def distinct_suite(samples: Iterable[Sample], n: Count = 2) -> DistinctSuite:
    return DistinctSuite(samples, name="pairs_of_words", n=n)

@dataclass(frozen=True)
class DistinctWords:
    least: Count = 1

    def __call__(self, sample: Sample, answer: str) -> Scores:
        return {"words": (float(len(set(answer.split()))), 1.0)}
""",
    "conf/evaluation/distinct.yaml": f"""# Distinct.
suites:
  distinct:
    _target_: parallax.evaluation.lexical.DistinctSuite{SCENES}
  made:
    _target_: parallax.evaluation.lexical.distinct_suite{SCENES}
  words:
    _target_: parallax.evaluation.suites.ScoredSuite
    name: words
    max_new_tokens: 9
    scorer: {{_target_: parallax.evaluation.lexical.distinct.DistinctWords, least: 2}}{SCENES}
""",
}
MINE = ["data=mine", "data.path=questions.tsv", "data.image_root=pictures"]
PROPOSER, SUITES = "stages.align.proposer", "evaluation.suites"
# what is typed, values that are right, and values that are wrong with what the sentence says is allowed
PARTS: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "a view in a package folder": (
        ["aug=swirl"], ["aug.way=right", "aug.strength=null", "aug.steps=[4]"],
        {"aug.way=up": "one of left, right", "aug.strength=2": "from 0 to 1, or null", "aug.steps=[0]": "an integer of 1 or more",
         "aug.stepz=[1]": "Did you mean aug.steps"},
    ),
    "a function that makes a view": (
        ["aug=dusk"], ["aug.strength=0.4"], {"aug.strength=2": "from 0 to 1", "aug.strenth=0": "Did you mean"},
    ),
    "a partial": (["aug=mild"], ["aug.noise_steps=50"], {"aug.noise_steps=1000": "from 0 to 999"}),
    "another name for a class": (["aug=noise"], ["aug.noise_steps=50"], {"aug.noise_steps=1000": "from 0 to 999"}),
    "views by the names of their files": (
        ["aug=mixture", "aug.views=[mild,dusk,{name: swirl, way: right}]"], [],
        {"aug.views=[{name: swirl, way: up}]": "one of left, right"},
    ),
    "a dataclass": (
        ["loss=odd"],
        ["loss.norm=mean", "loss.kind=soft", "loss.margin=0.5", "loss.weights={a: 0.5}", "loss.steps=[1,2]",
         "loss.schedule={a: 1}"],
        {"loss.norm=max": "one of sum, mean", "loss.kind=hart": "Did you mean hard", "loss.margin=aut": "a number or auto",
         "loss.weights={a: 2}": "from 0 to 1", "loss.steps=[]": "1 to 3 items", "loss.steps=[1,-1]": "above 0",
         "loss.top=6": "at most 5", "loss.half=4": "below 3.14", "loss.schedule={c: 1}": "from a, b to values",
         "pairs.num_negatives=3": "does not go with Odd", "loss.beta=0": "above 0"},
    ),
    "a subclass that hands arguments on": (
        ["loss=sharp"], ["loss.label_smoothing=0.1"],
        {"loss.sharpness=10": "from 1 to 9", "loss.label_smoothing=0.6": "below 0.5", "loss.inner.beta=-1": "above 0",
         "loss.inner.norm=x": "one of sum, mean", "loss.labelsmoothing=0": "Did you mean", "pairs.num_negatives=2": "Sharp"},
    ),
    "a partial of a subclass": (
        ["loss=sharper"], ["loss.sharpness=4"],
        {"loss.beta=-1": "above 0", "loss.sharpness=10": "from 1 to 9", "pairs.num_negatives=2": "Sharper"},
    ),
    "a function that makes an objective": (
        ["loss=made"], ["loss.tries=2"], {"loss.tries=0": "1 or more", "pairs.num_negatives=2": "made", "loss.beta=0": "above 0"}
    ),
    "a judge made of parts": (
        ["method=sima", "judge=wordy"], ["judge.fine=0.2"],
        {"judge.fine=-1": "0 or more", "judge.vocabulary.bonus=-1": "0 or more", "judge.base.fine=-1": "0 or more",
         "judge.base={_target_: augment.view.Identity}": "no Judge",
         "judge.vocabulary={_target_: augment.view.Identity}": "no Vocabulary"},
    ),
    "a subclass of a shipped proposer": (
        ["method=hotter"], [f"{PROPOSER}.temperature=0.5"],
        {f"{PROPOSER}.heats=[0]": "above 0", f"{PROPOSER}.mode=sub": "one of add, times",
         f"{PROPOSER}.temperature=11": "from 0 to 10", f"{PROPOSER}.temprature=1": "There is no key"},
    ),
    "a selector of a package": (
        ["selector=first"], ["selector.limits={a: 3}"],
        {"selector.share=2": "from 0 to 1", "selector.limits={a: 0}": "1 or more", "selector.num_negatives=0": "1 or more"},
    ),
    "a source with an enumeration": (
        MINE, ["data.order=BACK", "data.span=[0,0.5]"],
        {"data.order=2": "one of GIVEN, BACK", "data.span=[0,2]": "from 0 to 1", "data.path=none.tsv": "does not exist"},
    ),
    "suites": (
        ["evaluation=distinct"], [f"{SUITES}.distinct.n=3"],
        {f"{SUITES}.distinct.n=4": "one of 1, 2, 3", f"{SUITES}.distinct.sizes=[0]": "1 or more",
         f"{SUITES}.made.n=0": "1 or more", f"{SUITES}.words.scorer.least=0": "1 or more"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def clone(copy: Path) -> Path:
    """The copy of the program with these parts in it, too."""
    for path, text in FILES.items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(text.lstrip(), "utf-8")
    return copy


def test_right_values_are_taken_and_wrong_ones_refused_with_key_value_and_what_is_allowed(clone: Path) -> None:
    asked: list[tuple[str, str, list[str]]] = []
    for words, right, wrong in PARTS.values():
        asked += [("composed", "", words), ("composed", "", [*words, *right])]
        asked += [(word, allowed, [*words, word]) for word, allowed in wrong.items()]
    said = tell(clone, *[("compose", words) for _, _, words in asked])
    for (word, allowed, words), answer in zip(asked, said, strict=True):
        if word == "composed":
            assert answer == "composed", words
        else:
            assert answer.startswith("ConfigError: ") and "\n" not in answer, (words, answer)
            assert word.partition("=")[0] in answer and allowed in answer, (words, answer)


def test_the_meaning_that_a_refusal_shows_is_of_the_same_part(clone: Path) -> None:
    (said,) = tell(clone, ("compose", ["loss=odd", "loss.norm=max"]))
    assert said.endswith("it must be one of sum, mean."), (
        "conf/loss says of the norm of other objectives what it means there"
    )


def test_the_documentation_says_what_arguments_of_inner_parts_may_hold(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_reference.py"], cwd=clone, env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| `judge.vocabulary.bonus` | `2` | a number of 0 or more | each |" in (
        clone / "docs/reference/judge.md"
    ).read_text("utf-8")


@pytest.mark.slow
def test_each_runs_to_the_end_of_a_small_run(clone: Path) -> None:
    small = [word for word in SMALL if word != "data.size=12"]
    runs = {
        name: [
            *words,
            *right,
            *small,
            *([] if words is MINE else ["data.size=12"]),
            *([] if name == "suites" else ["evaluation=none"]),
        ]
        for name, (words, right, _) in PARTS.items()
    }
    said: list[Any] = tell(clone, *[("run", words) for words in runs.values()])
    of = dict(zip(runs, said, strict=True))
    assert not {name: facts for name, facts in of.items() if not isinstance(facts, dict) or not facts.get("steps")}
    assert {"distinct_3", "distinct_2", "words"} <= set(of["suites"]["after"])
    assert "a corrupted view of it (swirl)" in of["a view in a package folder"]["report"]
