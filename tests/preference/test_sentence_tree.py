"""The tree search on a scripted policy: what is said, kept, pruned, ended and stored. On the built-in model batches agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.shapes.source import ShapesSource
from parallax.preference.judges import ClipCalibrated
from parallax.preference.proposer import SearchProposer, Unanswerable
from parallax.preference.proposers import SentenceTree
from parallax.preference.tree import Leaf, Node, Tree, render
from parallax.records import BadImage, Sample, Turn
from tests.models.examples import Picture
from tests.models.scripted import Rule, ScriptedPolicy
from tests.parts import part
from tests.typed import load_policy

QUESTION = "q"


def sample(number: int = 1) -> Sample:
    return Sample(f"s{number}", "test", Picture(number), (Turn(QUESTION),))


def search(rule: Rule, **options: Any) -> Tree:
    options = {"max_path_tokens": 12, "drop_junk": False, "num_groups": 3, **options}
    proposer = part(SentenceTree, **options)
    (leaves,) = proposer.propose(ScriptedPolicy(rule), [sample()], seed=0, generate=lambda asks: [])
    leaf = leaves[0]
    assert isinstance(leaf, Leaf)
    return leaf.tree


def animals(*logits: float, deep: int = 2) -> Rule:
    """`deep` sentences of one animal each, then the end of the text."""

    def rule(said: tuple[str, ...]) -> dict[str, float]:
        if said and said[-1] != ".":
            return {".": 9.0}
        if said.count(".") == deep:
            return {"</s>": 9.0}
        return dict(zip(("ant", "bee", "cat", "dog"), logits, strict=False))

    return rule


def shape(tree: Tree) -> list[tuple[int, int, str, str]]:
    return [(node.id, node.parent, node.text, node.state) for node in tree.nodes]


def test_every_text_is_continued_by_each_group_until_it_ends() -> None:
    tree = search(animals(5.0, 4.0, deep=1), num_groups=2)
    assert shape(tree) == [(1, 0, "ant.", "open"), (2, 0, "bee.", "open"), (3, 1, "", "final"), (4, 2, "", "final")]
    assert [leaf.id for leaf in tree.leaves()] == [3, 4] and all(leaf.finished for leaf in tree.leaves())


def test_what_several_groups_say_alike_is_one_sentence() -> None:
    """After the first sentence all three groups end the text: the same token, once in the tree."""
    tree = search(animals(5.0, 4.0, 3.0, deep=1))
    assert [node.text for node in tree.nodes].count("") == 3  # one end per sentence, not three


def test_a_level_keeps_its_best_and_its_worst_by_the_models_own_score() -> None:
    """Four groups say ant, bee, cat, dog (each penalty pushes on); kept are the likeliest and the two least likely."""
    tree = search(animals(6.0, 5.0, 4.0, 3.5), num_groups=4, diversity_penalty=9.0, prune_from=4)
    first = [(node.text, node.state) for node in tree.nodes if node.parent == 0]
    assert first == [("ant.", "open"), ("bee.", "pruned"), ("cat.", "open"), ("dog.", "open")]
    second = [node for node in tree.nodes if node.text and node.parent]
    assert len(second) == 12 and sum(node.state == "open" for node in second) == 3
    totals = {node.id: node.mean_log_prob + tree.nodes[node.parent - 1].mean_log_prob for node in second}
    values = sorted(totals.values())
    assert sorted(totals[node.id] for node in second if node.state == "open") == [values[0], values[1], values[-1]]


def test_few_sentences_are_all_kept() -> None:
    tree = search(animals(6.0, 5.0, 4.0, 3.5), num_groups=4, diversity_penalty=9.0, prune_from=5)
    assert all(node.state == "open" for node in tree.nodes if node.parent == 0)


class Likes:
    """A step judge that likes some animals."""

    def __init__(self, *order: str) -> None:
        self.order = order

    def steps(self, families: Sequence[tuple[Any, Sequence[Node]]], device: Any) -> list[list[float]]:
        return [[-float(self.order.index(node.text)) for node in siblings] for _, siblings in families]

    def settings(self) -> dict[str, Any]:
        return {"likes": list(self.order)}


def test_calibrated_pruning_asks_the_judge() -> None:
    judge = Likes("dog.", "cat.", "bee.", "ant.")
    tree = search(
        animals(6.0, 5.0, 4.0, 3.5),
        num_groups=4,
        diversity_penalty=9.0,
        prune_from=4,
        prune_by="calibrated",
        judge=judge,
    )
    assert [(n.text, n.state) for n in tree.nodes if n.parent == 0] == [
        ("ant.", "open"), ("bee.", "open"), ("cat.", "pruned"), ("dog.", "open"),
    ]  # fmt: skip


def test_a_path_ends_unfinished_at_its_budget_and_a_sentence_is_cut_at_its_own() -> None:
    tree = search(
        lambda said: {"ant": 5.0, "bee": 4.0}, num_groups=2, max_path_tokens=5, max_sentence_tokens=3, prune_from=99
    )
    assert {len(node.token_ids) for node in tree.nodes if node.parent == 0} == {3}
    leaves = tree.leaves()
    assert leaves and not any(leaf.finished for leaf in leaves)
    for leaf in leaves:
        assert sum(len(node.token_ids) for node in tree.path(leaf.id)) == 5


def test_the_end_token_within_a_sentence_ends_its_path() -> None:
    tree = search(lambda said: {"ant": 5.0, "bee": 4.0} if not said else {"</s>": 9.0}, num_groups=2)
    assert shape(tree) == [(1, 0, "ant", "final"), (2, 0, "bee", "final")]


def test_junk_is_kept_in_the_record_but_goes_nowhere() -> None:
    def rule(said: tuple[str, ...]) -> dict[str, float]:
        if not said:
            return {"ant": 5.0, "bee": 4.9}
        if said[0] == "bee":
            return {"bee": 9.0} if len(said) < 8 else {".": 9.0}
        return {".": 9.0} if said[-1] != "." else {"</s>": 9.0}

    (child,) = [
        n for n in search(rule, num_groups=2, drop_junk=True, max_path_tokens=20).nodes if n.text.startswith("bee")
    ]
    assert child.state == "open"  # three letters: `bee bee …` counts as a list
    tree = search(lambda said: {"!": 9.0, "ant": 7.0} if len(said) < 4 else {"</s>": 9.0}, num_groups=2, drop_junk=True)
    assert {node.state for node in tree.nodes if node.text == "!"} == {"junk"}
    assert not any(node.parent == junk.id for junk in tree.nodes if junk.state == "junk" for node in tree.nodes)


def test_without_pruned_sentences_their_siblings_are_ranked_without_them() -> None:
    options = {"num_groups": 4, "diversity_penalty": 9.0, "prune_from": 4}
    kept, gone = (search(animals(6.0, 5.0, 4.0, 3.5), keep_pruned=keep, **options) for keep in (True, False))
    assert (len(kept.families()[0]), len(gone.families()[0])) == (4, 3)
    assert [leaf.id for leaf in kept.leaves()] == [leaf.id for leaf in gone.leaves()]


def test_candidates_are_whole_answers_with_keys_of_their_own() -> None:
    proposer = part(SentenceTree, max_path_tokens=12, num_groups=2, drop_junk=False)
    (leaves,) = proposer.propose(ScriptedPolicy(animals(5.0, 4.0)), [sample()], seed=0, generate=lambda asks: [])
    assert [leaf.text for leaf in leaves] == ["ant. ant.", "ant. bee.", "bee. ant.", "bee. bee."]
    assert len({leaf.key for leaf in leaves}) == 4
    assert all(leaf.key == leaf.spec.key() and leaf.token_ids[-1] == 1 and leaf.finished for leaf in leaves)
    assert isinstance(proposer, SearchProposer)


def test_trees_are_kept_and_found_again_until_an_ingredient_changes(tmp_path: Path) -> None:
    def run(rule: Rule = animals(5.0, 4.0), who: Sample = sample(), **options: Any) -> SentenceTree:  # noqa: B008
        proposer = part(SentenceTree, **{"max_path_tokens": 12, "num_groups": 2, "cache_dir": tmp_path, **options})
        proposer.propose(ScriptedPolicy(rule), [who], seed=0, generate=lambda asks: [])
        return proposer

    assert (run().built, run().built, run().reused) == (1, 0, 1)
    judge, other = Likes("ant.", "bee."), Likes("bee.", "ant.")
    changes: list[dict[str, Any]] = [
        {"num_groups": 3}, {"diversity_penalty": 2.0}, {"max_sentence_tokens": 9}, {"max_path_tokens": 11}, {"keep_top": 2},
        {"keep_bottom": 1}, {"prune_from": 6}, {"keep_pruned": False}, {"drop_junk": False}, {"who": sample(2)},
        {"prune_by": "calibrated", "judge": judge, "num_groups": 2}, {"prune_by": "calibrated", "judge": other},
    ]  # fmt: skip
    for change in changes:
        assert run(**change).built == 1, change
        assert run(**change).reused == 1, change
    assert run(judge=other).reused == 1  # a judge that is not asked does not count
    assert run(batch_size=7).reused == 1


def test_a_search_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(4)]
    options: dict[str, Any] = {"max_path_tokens": 12, "num_groups": 2, "cache_dir": tmp_path, "batch_size": 2}
    part(SentenceTree, **options).search(ScriptedPolicy(animals(5.0, 4.0)), samples[:2], seed=0)
    again = part(SentenceTree, **options)
    made = again.propose(ScriptedPolicy(animals(5.0, 4.0)), samples, seed=0, generate=lambda asks: [])
    assert (again.built, again.reused) == (2, 2)
    fresh = part(SentenceTree, **{**options, "cache_dir": None})
    assert made == fresh.propose(ScriptedPolicy(animals(5.0, 4.0)), samples, seed=0, generate=lambda asks: [])


class Unreadable(Picture):
    def load(self) -> Any:
        raise BadImage("image 'x' is cut off")


def test_samples_that_cannot_be_searched_are_named_and_the_others_kept(tmp_path: Path) -> None:
    bad = Sample("bad", "test", Unreadable(3), (Turn(QUESTION),))
    proposer = part(SentenceTree, max_path_tokens=12, num_groups=2, cache_dir=tmp_path)
    with pytest.raises(Unanswerable) as caught:
        proposer.propose(ScriptedPolicy(animals(5.0, 4.0)), [sample(), bad], seed=0, generate=lambda asks: [])
    assert caught.value.why == {"bad": "image 'x' is cut off"} and proposer.built == 1
    with pytest.raises(Unanswerable, match="do not fit the context of 64; lower the proposer's max_path_tokens"):
        part(SentenceTree, max_path_tokens=64).propose(
            ScriptedPolicy(animals(5.0)), [sample()], seed=0, generate=lambda a: []
        )


def test_a_tree_is_plain_data_and_can_be_shown() -> None:
    tree = search(animals(5.0, 4.0), num_groups=2)
    assert Tree.from_data(tree.as_data()) == tree
    lines = render(tree, {1: 0.5}).splitlines()
    assert len(lines) == len(tree.nodes) and lines[0].startswith("1 open") and "+0.500 ant." in lines[0]
    assert "(end of the text)" in render(tree)


def test_what_cannot_be_is_refused() -> None:
    for options, reason in (
        ({"num_groups": 1}, "num_groups=1 is not allowed"),
        ({"keep_top": 0, "keep_bottom": 0}, "continue nothing"),
        ({"prune_from": 2}, "prune_from 2 is less than"),
        ({"prune_by": "luck"}, "prune_by='luck' is not allowed"),
        ({"prune_by": "calibrated"}, "needs a judge"),
    ):
        with pytest.raises(ValueError, match=reason):
            part(SentenceTree, **options)  # type: ignore[arg-type]


# -- with the built-in model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_policy({"path": "assets/tiny_llava"}, {"r": 4}, device="cpu", seed=0)


def test_many_images_together_give_the_trees_that_each_gives_alone(policy: Any) -> None:
    samples = list(ShapesSource("pairs_habit_free", 4))
    options: dict[str, Any] = {"num_groups": 3, "max_path_tokens": 40, "keep_bottom": 1, "prune_from": 3}
    together = part(SentenceTree, batch_size=60, **options).propose(policy, samples, seed=0, generate=lambda asks: [])
    alone = part(SentenceTree, batch_size=3, **options)
    for own, leaves in zip(samples, together, strict=True):
        (single,) = alone.propose(policy, [own], seed=1, generate=lambda asks: [])
        assert [leaf.token_ids for leaf in single] == [leaf.token_ids for leaf in leaves]
        assert [leaf.key for leaf in single] == [leaf.key for leaf in leaves]
    assert min(len(leaves) for leaves in together) >= 2 and sum(map(len, together)) >= 8


def test_self_rewarding_picks_by_language_alone_and_tells_why(policy: Any) -> None:
    from parallax.preference.selector import BestAgainstRest
    from parallax.records import PreferencePair

    (one,) = ShapesSource("pairs_habit_free", 1)
    proposer = part(SentenceTree, num_groups=3, max_path_tokens=40, keep_bottom=1, prune_from=3)
    groups = proposer.propose(policy, [one], seed=0, generate=lambda asks: [])
    judge = part(ClipCalibrated, image_weight=0.0)
    (made,) = judge.judge(policy, [one], groups, seed=0, generate=lambda asks: [])
    pair = BestAgainstRest().select(one, groups[0], made)
    assert isinstance(pair, PreferencePair) and pair.chosen.score == max(made.scores)
    told = pair.chosen.provenance["judge"]["sentences"]
    assert " ".join(sentence["text"] for sentence in told) == pair.chosen.text
    assert pair.chosen.score == pytest.approx(sum(sentence["step"] for sentence in told) / len(told))
    assert pair.meta["judge"]["tree"] == groups[0][0].tree.key  # type: ignore[attr-defined]
