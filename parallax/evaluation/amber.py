"""AMBER (Wang et al., 2023, section 4): hallucinations in descriptions, and yes/no questions, without a judge.

A description's nouns are looked up in AMBER's own vocabulary (`relation.json`: object → words that go with it). A word that
belongs to an object of the image is right; one in `safe_words.txt` counts as a mention that is never wrong; any other is a
hallucination. The published script finds nouns with a tagger and also lets word vectors decide whether two words mean the same.
Here a word is taken by its singular form, and only words that AMBER lists together are the same, unless a function says more.

    amber_chair = hallucinated mentions / mentions           amber_cover = objects mentioned / objects to be mentioned
    amber_hal   = descriptions with a hallucination / all    amber_cog   = likely hallucinations mentioned / likely hallucinations

The yes/no questions are scored with "no" as the positive answer, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from parallax.evaluation.special_tokens import plain_text
from parallax.evaluation.words import singular, tokens
from parallax.records import Sample

Scores = dict[str, tuple[float, float]]
Similar = Callable[[str, str], bool]


@dataclass(frozen=True)
class AmberWords:
    """AMBER's vocabulary.

    Args:
        association: object → words that go with it (`relation.json`).
        safe: words that are never a hallucination (`safe_words.txt`).
        similar: whether two words mean the same, beside what the vocabulary says; None: only what it says.
    """

    association: Mapping[str, Sequence[str]]
    safe: Collection[str] = ()
    similar: Similar | None = None

    def mentions(self, text: str) -> list[str]:
        """Words of the text that the vocabulary knows, in order, repeats kept."""
        words = (word for name, words in self.association.items() for word in (*words, name))
        known = {word.lower(): word for word in words}  # as AMBER writes them: TV, air-conditioning, e-book
        found = ((singular(word), word) for word in tokens(text))
        return [known[one] if one in known else known[word] for one, word in found if one in known or word in known]

    def objects_of(self, mention: str, objects: Sequence[str]) -> str | None:
        """The first of the objects that this word stands for."""
        for name in objects:
            if mention == name or mention in self.association.get(name, ()):
                return name
        if self.similar is not None:
            for name in objects:
                if any(self.similar(mention, word) for word in (*self.association.get(name, ()), name)):
                    return name
        return None


def description_scores(text: str, present: Sequence[str], likely: Sequence[str], words: AmberWords) -> Scores:
    """One description.

    Args:
        text: the description.
        present: objects a good description mentions (`truth`).
        likely: objects that people would expect and that are not there (`hallu`).
        words: the vocabulary.
    """
    mentions, safe = words.mentions(text), {word.lower() for word in words.safe}
    covered: set[str] = set()
    expected: set[str] = set()
    wrong = 0
    for mention in mentions:
        if mention.lower() in safe:
            continue
        there = words.objects_of(mention, present)
        if there is not None:
            covered.add(there)
            continue
        wrong += 1
        not_there = words.objects_of(mention, likely)
        if not_there is not None:
            expected.add(not_there)
    return {
        "amber_chair": (wrong, len(mentions)),
        "amber_cover": (len(covered), len(present)),
        "amber_hal": (float(wrong > 0), 1.0),
        "amber_cog": (len(expected), len(likely)),
    }


def yes_no_scores(answer: str, truth: str, dimension: str) -> Scores:
    """One yes/no question, over all and within its dimension (existence, attribute, relation).

    The answer must begin with yes or no; the published script asks for exactly `Yes` or `No`. Anything else is wrong.
    """
    begin = plain_text(answer).lower().lstrip("\"'(*").split(".")[0].split(",")[0].split()
    said = begin[0] if begin and begin[0] in ("yes", "no") else None
    no, truly_no = float(said == "no"), float(truth == "no")
    both = float(said == "no" and truth == "no")
    pairs = {
        "accuracy": (float(said == truth), 1.0),
        "precision": (both, no),
        "recall": (both, truly_no),
        "f1": (2 * both, no + truly_no),
    }
    scores = {f"amber_{name}": pair for name, pair in pairs.items()}
    scores |= {f"amber_{name}:{dimension}": pair for name, pair in pairs.items()}
    scores["amber_parse_failures"] = (float(said is None), 1.0)
    return scores


@dataclass(frozen=True)
class AmberScorer:
    """Scores either kind of AMBER sample; `kind` is `generative`, or the dimension of a yes/no question."""

    words: AmberWords

    def __call__(self, sample: Sample, answer: str) -> Scores:
        if sample.kind == "generative":
            about = sample.attributes
            return description_scores(answer, about["present"], about["likely"], self.words)
        return yes_no_scores(answer, str(sample.answer), sample.kind)
