"""A sentence tree: all that a search said, with scores and parents, so that every choice can be explained (CSR, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from parallax.records import Candidate

# open: to be continued. final: the end of a path. pruned: was not continued. junk: no sentence, never continued nor ranked.
State = Literal["open", "final", "pruned", "junk"]


@dataclass(frozen=True, slots=True)
class Node:
    """One sentence in its place. The end of the text alone (no sentence left to say) is a final node with empty `text`."""

    id: int  # 1 and up; 0 is the root, the question itself
    parent: int
    token_ids: tuple[int, ...]  # of this sentence
    text: str  # of this sentence, without special tokens
    log_prob: float  # summed over its tokens, without the diversity penalty
    state: State
    finished: bool  # the text is over here by its end token

    @property
    def is_sentence(self) -> bool:
        """Whether it counts in ranks and paths."""
        return bool(self.text) and self.state != "junk"

    @property
    def mean_log_prob(self) -> float:
        return self.log_prob / len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole search. `nodes[i].id` is i + 1; parents come before their children."""

    key: str  # content address of the search
    nodes: tuple[Node, ...]

    def path(self, node: int) -> list[Node]:
        """From the first sentence to `node`."""
        nodes = []
        while node:
            nodes.append(self.nodes[node - 1])
            node = self.nodes[node - 1].parent
        return nodes[::-1]

    def leaves(self) -> list[Node]:
        """Ends of paths that hold at least one sentence."""
        return [n for n in self.nodes if n.state == "final" and any(step.is_sentence for step in self.path(n.id))]

    def families(self) -> dict[int, list[Node]]:
        """Parent id -> its children that are sentences."""
        families: dict[int, list[Node]] = {}
        for node in self.nodes:
            if node.is_sentence:
                families.setdefault(node.parent, []).append(node)
        return families

    def without_pruned(self) -> Tree:
        """The tree as if pruned sentences had never been said; ids stay, their nodes count as junk."""
        return Tree(self.key, tuple(replace(n, state="junk") if n.state == "pruned" else n for n in self.nodes))

    def as_data(self) -> dict[str, Any]:
        """Plain data for the store."""
        return {"key": self.key, "nodes": [asdict(node) for node in self.nodes]}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Tree:
        return cls(
            data["key"], tuple(Node(**{**node, "token_ids": tuple(node["token_ids"])}) for node in data["nodes"])
        )


@dataclass(frozen=True, slots=True)
class Leaf(Candidate):
    """A candidate that is a path of a tree; `node` is where it ends."""

    tree: Tree = Tree("", ())
    node: int = 0


def render(tree: Tree, scores: Mapping[int, float] | None = None) -> str:
    """The tree as indented lines, for people: state, mean log-prob, score where given, sentence."""
    lines: list[str] = []

    def show(parent: int, depth: int) -> None:
        for node in tree.nodes:
            if node.parent == parent:
                score = f" {scores[node.id]:+.3f}" if scores and node.id in scores else ""
                said = node.text or "(end of the text)"
                lines.append(f"{'  ' * depth}{node.id} {node.state} {node.mean_log_prob:+.3f}{score} {said}")
                show(node.id, depth + 1)

    show(0, 0)
    return "\n".join(lines)


def cumulative(tree_nodes: Sequence[Node], scores: Mapping[int, float], node: int) -> float:
    """Sum of scores from the first sentence to `node`."""
    total = 0.0
    while node:
        total += scores.get(node, 0.0)
        node = tree_nodes[node - 1].parent
    return total
