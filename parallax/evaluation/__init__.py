"""How good a policy is: CHAIR, POPE and accuracy as ratios of sums, measured on the live policy."""

from parallax.evaluation.evaluation import Evaluation, EvaluationItem, difference
from parallax.evaluation.image_use import ImageUse
from parallax.evaluation.live import evaluate
from parallax.evaluation.ratio import Metric, bootstrap, paired_difference
from parallax.evaluation.suites import AccuracySuite, ChairSuite, PopeSuite, Suite

__all__ = [
    "AccuracySuite",
    "ChairSuite",
    "Evaluation",
    "EvaluationItem",
    "ImageUse",
    "Metric",
    "PopeSuite",
    "Suite",
    "bootstrap",
    "difference",
    "evaluate",
    "paired_difference",
]
