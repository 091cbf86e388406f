"""CSR's proposer (arXiv 2405.14622, section 3.2): a tree of answers, sentence by sentence, pruned at every level.

From each text so far, several different next sentences are said (group beams); of a level's sentences that go on, a few of the
best and of the worst are continued. The ends of all paths are the candidates. Trees of many images grow together.

Where this departs from the released code: generated ids are kept instead of being cut out of text; the end of the text ends
its path at once; scores are those of the model itself, without the diversity penalty; budgets are counted in tokens; sentences
that two groups said alike are one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Interval

from parallax.models.encoding.prompt_encoder import PromptTooLong
from parallax.models.generation.requests import GenerationRequest
from parallax.models.search.group_beams import VERSION, GroupBeams, Sentence, Start
from parallax.preference.junk import junk_reason
from parallax.preference.proposer import Generate, SearchProposer, Unanswerable
from parallax.preference.tree import Leaf, Node, State, Tree, cumulative
from parallax.records import (
    BadImage,
    Candidate,
    Decoding,
    GenerationSpec,
    ImageRef,
    Sample,
    ViewSpec,
    fingerprint,
)
from parallax.records.shard_folder import KeyedStore
from parallax.settings.ranges import Count, NotNegative

if TYPE_CHECKING:
    import torch

    from parallax.models.policy import Policy

Kept = Annotated[int, Interval(ge=0, le=64)]
PruneBy = Literal["model_score", "calibrated"]


class StepJudge(Protocol):
    """A judge that can score sentences among their siblings while a search goes on."""

    def steps(
        self, families: Sequence[tuple[Sequence[ImageRef], Sequence[Node]]], device: torch.device | str
    ) -> list[list[float]]:
        """Higher is better, for each of some siblings about a picture."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides those scores."""
        ...


@dataclass
class _Growing:
    """A tree that is being searched."""

    sample: Sample
    start: Start
    nodes: list[Node]
    scores: dict[int, float]  # step scores by node id, higher is better
    active: list[int]  # node ids to be continued; 0 is the root


class SentenceTree(SearchProposer):
    """Sentence-level tree search.

    Args:
        judge: scores sentences among siblings; only asked with `prune_by="calibrated"`.
        num_groups: sentences said from each text so far, 2 or more.
        diversity_penalty: taken from a token's logit for each earlier group that picks it at the same step, 0 or more.
        max_sentence_tokens: most tokens of a sentence; one that is cut there is gone on with as it is.
        max_path_tokens: most tokens of an answer; a path that reaches it ends there, unfinished.
        keep_top, keep_bottom: how many of the best and of the worst sentences of a level are continued.
        prune_from: a level with fewer sentences that go on is not pruned.
        prune_by: `model_score` ranks by the sum over the path of mean token log-probs (the released code); `calibrated` by the
            sum of the judge's step scores (the paper).
        keep_pruned: pruned sentences stay in the tree, where they count among their siblings' ranks (the released code).
        drop_junk: sentences that are loops or debris are neither continued nor ranked.
        batch_size: sequences decoded at once; `batch_size // num_groups` images are searched together.
        cache_dir: trees are kept in `trees/` below it; None keeps nothing.

    Attributes:
        built, reused: trees searched by this object, and trees found in the store.
    """

    makes_trees: ClassVar[bool] = True  # candidates are the leaves of sentence trees

    def __init__(
        self,
        judge: StepJudge | None = None,
        *,
        num_groups: Annotated[int, Interval(ge=2, le=64)],
        diversity_penalty: NotNegative,
        max_sentence_tokens: Count,
        max_path_tokens: Count,
        keep_top: Kept,
        keep_bottom: Kept,
        prune_from: Annotated[int, Interval(ge=1, le=1000)],
        prune_by: PruneBy,
        keep_pruned: bool,
        drop_junk: bool,
        batch_size: Count,
        cache_dir: str | Path | None = None,
    ) -> None:
        if prune_by == "calibrated" and judge is None:
            raise ValueError("prune_by=calibrated needs a judge that scores sentences, such as judge=clip_calibrated")
        if keep_top + keep_bottom < 1:
            raise ValueError(
                f"keep_top {keep_top} and keep_bottom {keep_bottom} continue nothing; keep at least 1 sentence"
            )
        if prune_from < keep_top + keep_bottom:
            raise ValueError(
                f"prune_from {prune_from} is less than keep_top + keep_bottom = {keep_top + keep_bottom}: pruning would keep "
                "more than there is; raise prune_from"
            )
        self.judge, self.num_groups, self.diversity_penalty = judge, num_groups, diversity_penalty
        self.max_sentence_tokens, self.max_path_tokens = max_sentence_tokens, max_path_tokens
        self.keep_top, self.keep_bottom, self.prune_from = keep_top, keep_bottom, prune_from
        self.prune_by, self.keep_pruned, self.drop_junk = prune_by, keep_pruned, drop_junk
        self.batch_size = batch_size
        self.store = KeyedStore(Path(cache_dir).expanduser() / "trees") if cache_dir is not None else None
        self.built = self.reused = 0

    def settings(self) -> dict[str, Any]:
        """Everything that decides a tree but policy, image and question, as plain data."""
        calibrated = self.prune_by == "calibrated" and self.judge is not None
        return {
            "proposer": type(self).__name__,
            "num_groups": self.num_groups,
            "diversity_penalty": self.diversity_penalty,
            "max_sentence_tokens": self.max_sentence_tokens,
            "max_path_tokens": self.max_path_tokens,
            "keep": [self.keep_top, self.keep_bottom, self.prune_from],
            "prune_by": self.prune_by,
            "keep_pruned": self.keep_pruned,
            "drop_junk": self.drop_junk,
            "judge": self.judge.settings() if calibrated and self.judge is not None else None,
        }

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """The ends of all paths, per sample. Nothing is drawn at random, so `seed` changes nothing.

        Raises Unanswerable for samples whose image cannot be read or whose answer would not fit the context.
        """
        why: dict[str, str] = {}
        trees = self._trees(policy, samples, why)
        if why:
            raise Unanswerable(why)
        return [self._candidates(policy, sample, trees[sample.id]) for sample in samples]

    def search(self, policy: Policy, samples: Sequence[Sample], *, seed: int) -> None:
        """Search and keep what is not in the store yet."""
        self._trees(policy, samples, {})

    def spec(self, policy: Policy, sample: Sample) -> GenerationSpec:
        """All ingredients of a sample's tree; its key is the tree's."""
        request = GenerationRequest.about(sample, ViewSpec(), Decoding(self.max_path_tokens))
        return replace(policy.spec(request), generator=f"sentence_tree/{VERSION}/{fingerprint(self.settings())}")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _trees(self, policy: Policy, samples: Sequence[Sample], why: dict[str, str]) -> dict[str, Tree]:
        """Trees by sample id. Samples without one are named in `why`."""
        keys: dict[str, str] = {}
        for sample in samples:
            try:
                keys[sample.id] = self.spec(policy, sample).key()
            except BadImage as bad:
                why[sample.id] = str(bad)
        if self.store is not None:
            self.store.refresh()
        stored = self.store.get_many(keys.values()) if self.store is not None else {}
        trees = {id: Tree.from_data(stored[key]) for id, key in keys.items() if key in stored}
        self.reused += len(trees)
        missing = [sample for sample in samples if sample.id in keys and sample.id not in trees]
        beams = None
        for start in range(0, len(missing), together := max(1, self.batch_size // self.num_groups)):
            beams = beams or GroupBeams(
                policy, groups=self.num_groups, penalty=self.diversity_penalty, batch_size=self.batch_size
            )
            made = self._grow(policy, beams, missing[start : start + together], keys, why)
            self.built += len(made)
            if self.store is not None:
                self.store.add({tree.key: tree.as_data() for tree in made.values()})
            trees |= made
        return trees

    def _grow(
        self, policy: Policy, beams: GroupBeams, samples: Sequence[Sample], keys: dict[str, str], why: dict[str, str]
    ) -> dict[str, Tree]:
        growing: list[_Growing] = []
        for sample in samples:
            try:
                prompt = policy.encoder.encode_conversation(sample.conversation())
                self._check_room(policy, len(prompt.input_ids))
            except (BadImage, PromptTooLong) as error:
                why[sample.id] = str(error)
                continue
            growing.append(_Growing(sample, Start(prompt, (), 1), [], {}, [0]))
        while any(tree.active for tree in growing):
            asked = [(tree, parent) for tree in growing for parent in tree.active]
            said = beams.next_sentences([self._start(tree, parent) for tree, parent in asked])
            born = [
                (tree, parent, self._children(policy, tree, parent, sentences))
                for (tree, parent), sentences in zip(asked, said, strict=True)
            ]
            self._score(policy, born)
            for tree in growing:
                self._prune(tree)
        return {tree.sample.id: Tree(keys[tree.sample.id], tuple(tree.nodes)) for tree in growing}

    def _check_room(self, policy: Policy, prompt: int) -> None:
        if self.max_path_tokens > policy.encoder.max_context - prompt:
            raise PromptTooLong(
                f"{self.max_path_tokens} new tokens after a prompt of {prompt} do not fit the context of "
                f"{policy.encoder.max_context}; lower the proposer's max_path_tokens or shorten the prompt"
            )

    def _start(self, tree: _Growing, parent: int) -> Start:
        said = _said(tree.nodes, parent)
        return Start(tree.start.prompt, said, min(self.max_sentence_tokens, self.max_path_tokens - len(said)))

    def _children(self, policy: Policy, tree: _Growing, parent: int, sentences: Sequence[Sentence]) -> list[Node]:
        """New nodes, each different from its siblings; every one of them is open, final or junk."""
        used = len(_said(tree.nodes, parent))
        children: dict[tuple[int, ...], Node] = {}
        for sentence in sentences:
            if sentence.token_ids in children:
                continue
            text = policy.encoder.decode(sentence.token_ids)
            over = sentence.ended or used + len(sentence.token_ids) >= self.max_path_tokens
            junk = self.drop_junk and bool(text) and junk_reason(text, tree.sample.question) is not None
            if not text and not sentence.ended:
                junk = True  # white space only
            state: State = "junk" if junk else "final" if over else "open"
            children[sentence.token_ids] = node = Node(
                len(tree.nodes) + 1, parent, sentence.token_ids, text, sentence.log_prob, state, sentence.ended
            )
            tree.nodes.append(node)
        return list(children.values())

    def _score(self, policy: Policy, born: Sequence[tuple[_Growing, int, list[Node]]]) -> None:
        """Step scores of new sentences, which pruning adds up along paths."""
        families = [(tree, [node for node in children if node.is_sentence]) for tree, _, children in born]
        if self.prune_by == "model_score" or self.judge is None:
            for tree, siblings in families:
                tree.scores |= {node.id: node.mean_log_prob for node in siblings}
            return
        asked = [(tree, siblings) for tree, siblings in families if siblings]
        scored = self.judge.steps(
            [(tree.sample.conversation().images, siblings) for tree, siblings in asked], policy.device
        )
        for (tree, siblings), scores in zip(asked, scored, strict=True):
            tree.scores |= {node.id: score for node, score in zip(siblings, scores, strict=True)}

    def _prune(self, tree: _Growing) -> None:
        """Choose which of the sentences that are still open are continued; the others become pruned."""
        opened = [node.id for node in tree.nodes if node.state == "open" and node.parent in tree.active]
        tree.active = opened
        if len(opened) < self.prune_from:
            return
        order = sorted(opened, key=lambda id: (-cumulative(tree.nodes, tree.scores, id), id))
        bottom = order[len(order) - self.keep_bottom :] if self.keep_bottom else []
        kept = {*order[: self.keep_top], *bottom}
        tree.active = [id for id in opened if id in kept]
        for id in opened:
            if id not in kept:
                tree.nodes[id - 1] = replace(tree.nodes[id - 1], state="pruned")

    def _candidates(self, policy: Policy, sample: Sample, tree: Tree) -> list[Candidate]:
        whole = self.spec(policy, sample)
        ranked = tree if self.keep_pruned else tree.without_pruned()
        leaves: list[Candidate] = []
        for index, node in enumerate(tree.leaves()):
            spec = replace(whole, generator=f"{whole.generator}/{node.id}")
            ids = _said(tree.nodes, node.id)
            leaves.append(
                Leaf(
                    key=spec.key(), sample_id=sample.id, role="leaf", index=index, token_ids=ids,
                    text=policy.encoder.decode(ids), finished=node.finished, spec=spec, tree=ranked, node=node.id,
                )
            )  # fmt: skip
        return leaves


def _said(nodes: Sequence[Node], node: int) -> tuple[int, ...]:
    """All tokens from the start of the answer to the end of `node`."""
    ids: tuple[int, ...] = ()
    while node:
        ids = nodes[node - 1].token_ids + ids
        node = nodes[node - 1].parent
    return ids
