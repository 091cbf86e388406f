"""Which evaluation examples are shown: what changed first, a share for each trend, never more than the cap."""

from parallax.evaluation.evaluation import Evaluation, EvaluationItem
from parallax.reports.examples_table import examples, log_examples


def item(number: int, right: float, metric: str = "accuracy") -> EvaluationItem:
    scores = {metric: (right, 1.0)}
    return EvaluationItem("short", f"s{number}", f"g{number}", "colour", "?", "red", f"a{right}", True, scores)


def evaluation(rights: list[float], metric: str = "accuracy") -> Evaluation:
    return Evaluation.from_items([item(n, right, metric) for n, right in enumerate(rights)], bootstrap_draws=0)


def trends(before: list[float], after: list[float], limit: int, metric: str = "accuracy") -> list[str]:
    return [row[0] for row in examples(evaluation(before, metric), evaluation(after, metric), limit)]


def test_each_trend_has_a_share_and_leaves_what_it_does_not_need_to_the_others() -> None:
    before = [0.0] * 20 + [1.0] * 2 + [1.0] * 20
    after = [1.0] * 20 + [0.0] * 2 + [1.0] * 20
    found = trends(before, after, 12)
    assert [found.count(name) for name in ("improved", "worse", "unchanged")] == [5, 2, 5]
    assert found == sorted(found, key=["improved", "worse", "unchanged"].index)
    assert len(trends(before, after, 1000)) == 42 and trends(before, after, 1)


def test_what_is_better_depends_on_the_metric() -> None:
    assert trends([0.0, 1.0], [1.0, 0.0], 9) == ["improved", "worse"]
    assert trends([0.0, 1.0], [1.0, 0.0], 9, metric="chair_i") == ["improved", "worse"]
    rows = examples(evaluation([0.0], "chair_i"), evaluation([1.0], "chair_i"), 9)
    assert rows[0][0] == "worse", "more hallucinations are worse"


def test_without_wandb_or_without_both_sides_nothing_is_logged() -> None:
    assert log_examples([], evaluation([0.0]), evaluation([1.0]), []) == 0
