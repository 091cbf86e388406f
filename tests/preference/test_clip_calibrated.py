"""CSR's judge on a hand-made tree: step scores among siblings, path scores, and what is told about them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from parallax.preference.judges import ClipCalibrated
from parallax.preference.tree import Leaf, Node, Tree
from parallax.records import Decoding, GenerationSpec, Sample, Turn, ViewSpec
from tests.models.examples import Picture
from tests.parts import part

SAMPLE = Sample("s", "test", Picture(1), (Turn("q"),))
SPEC = GenerationSpec("p", "float32", "x", "t", "i", "q", ViewSpec(), Decoding(8))
POLICY: Any = SimpleNamespace(device="cpu")
#        root ─ 1 "true a." ─ 3 end          language: 1 better than 2; among 1's other children 4 is better than 5
#             │             ├ 4 "false b." ─ 6 end
#             │             └ 5 "true c." (final)
#             └ 2 "false d." (pruned)
TREE = Tree("t" * 32, (
    Node(1, 0, (5, 6), "true a.", -1.0, "open", False), Node(2, 0, (5, 7), "false d.", -3.0, "pruned", False),
    Node(3, 1, (1,), "", -0.1, "final", True), Node(4, 1, (8, 6), "false b.", -1.0, "open", False),
    Node(5, 1, (9, 1), "true c.", -4.0, "final", True), Node(6, 4, (1,), "", -0.1, "final", True),
))  # fmt: skip


class Words:
    """Relevance by the first word."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cosines(self, pairs: Any, device: Any = "cpu") -> list[float]:
        self.asked += [text for _, text in pairs]
        return [0.3 if text.startswith("true") else 0.1 for _, text in pairs]

    def digest(self) -> str:
        return "words"


def leaves(tree: Tree = TREE) -> list[Leaf]:
    return [
        Leaf(f"{n.id:032x}", "s", "leaf", i, (n.id,), str(n.id), True, SPEC, tree=tree, node=n.id)
        for i, n in enumerate(tree.leaves())
    ]


def scores(**options: Any) -> list[float]:
    judge = part(ClipCalibrated, Words(), **options)
    (made,) = judge.judge(POLICY, [SAMPLE], [leaves()], seed=0, generate=lambda asks: [])
    return list(made.scores)


def test_ranks_among_siblings_are_added_along_paths() -> None:
    """λ = 0.9. Family of the root: 1 has ranks ½ and ½ (-0.5), 2 has 1 and 1. Family of 1, which the end is no part of: 4 has
    language ½ and relevance 1 (-0.95), 5 has 1 and ½ (-0.55). Leaves 3, 5, 6 are the paths 1; 1-5; 1-4."""
    assert scores(len_norm="none") == pytest.approx([-0.5, -0.5 - 0.55, -0.5 - 0.95])
    assert scores(len_norm="sentences") == pytest.approx([-0.5, -1.05 / 2, -1.45 / 2])
    assert scores(len_norm="sentences_plus_one") == pytest.approx([-0.25, -0.35, -1.45 / 3])


def test_the_weight_decides_between_the_true_and_the_likely_continuation() -> None:
    _, true, likely = scores(image_weight=0.9, len_norm="none")
    assert true > likely
    _, true, likely = scores(image_weight=0.0, len_norm="none")
    assert likely > true


def test_a_pruned_sentence_counts_in_ranks_unless_it_is_left_out() -> None:
    judge = part(ClipCalibrated, Words(), len_norm="none")
    (made,) = judge.judge(POLICY, [SAMPLE], [leaves(TREE.without_pruned())], seed=0, generate=lambda asks: [])
    assert made.scores[0] == pytest.approx(-1.0)  # alone among its siblings: rank 1 of 1


def test_with_no_image_weight_no_picture_is_looked_at() -> None:
    words = Words()
    judge = part(ClipCalibrated, words, image_weight=0.0)
    (made,) = judge.judge(POLICY, [SAMPLE], [leaves()], seed=0, generate=lambda asks: [])
    assert words.asked == [] and made.scores and judge.settings()["image_text"] is None
    assert made.each[0]["sentences"][0]["cosine"] is None
    assert part(ClipCalibrated, None, image_weight=0.0).settings() == judge.settings()


def test_a_sentence_is_held_against_the_image_it_fits_best() -> None:
    class Fits(Words):
        def cosines(self, pairs: Any, device: Any = "cpu") -> list[float]:
            return [0.9 if image == "second" else 0.1 for image, _ in pairs]

    nodes = TREE.nodes[1:3]
    assert part(ClipCalibrated, Fits())._cosines([(("first", "second"), nodes), (("first",), nodes)], "cpu") == [
        [0.9, 0.9], [0.1, 0.1],
    ]  # fmt: skip


def test_every_score_is_told_and_counted() -> None:
    (made,) = part(ClipCalibrated, Words()).judge(POLICY, [SAMPLE], [leaves()], seed=0, generate=lambda asks: [])
    assert [s["text"] for s in made.each[2]["sentences"]] == ["true a.", "false b."]
    assert [s["cosine"] for s in made.each[2]["sentences"]] == [0.3, 0.1]
    assert made.notes == {"tree": "t" * 32, "leaves": 3, "sentences": 4}
    assert made.counts == {"trees": 1, "leaves": 3, "sentences": 4}
    assert "3 answers and 4 sentences of 1 trees scored" in part(ClipCalibrated, Words()).words(made.counts)


def test_settings_name_the_image_text_model_and_every_choice() -> None:
    base = part(ClipCalibrated, Words()).settings()
    assert base["image_text"] == "words"
    for change in ({"image_weight": 0.5}, {"combine": "zscore"}, {"len_norm": "none"}):
        assert part(ClipCalibrated, Words(), **change).settings() != base  # type: ignore[arg-type]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="needs judge.image_text"):
        part(ClipCalibrated, None)
    with pytest.raises(ValueError, match="image_weight=2 is not allowed"):
        part(ClipCalibrated, Words(), image_weight=2)
    with pytest.raises(ValueError, match="combine='product' is not allowed"):
        part(ClipCalibrated, Words(), combine="product")  # type: ignore[arg-type]
    from tests.preference.test_self_critic import group

    with pytest.raises(ValueError, match="scores the leaves of sentence trees, and sample 's' came with other answers"):
        part(ClipCalibrated, Words()).judge(POLICY, [SAMPLE], [group("a", "b")], seed=0, generate=lambda asks: [])
