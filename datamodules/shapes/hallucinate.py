"""A true description with hallucinations put in: known objects are exchanged for absent ones that usually go with the rest.

What POVID (arXiv 2402.11411, section 3.1) asks an outside model for. Here the scene is known, so the edit is exact: same
sentences, same number of objects, one or two of them not in the picture.
"""

from __future__ import annotations

import re

from datamodules.shapes.language import article, habitual_neighbours
from datamodules.shapes.scene import Scene, generator
from parallax.records import Sample


def hallucinated_description(sample: Sample, seed: int) -> str | None:
    """The sample's answer with one or two objects exchanged. None when it is no description of a known scene."""
    recipe = sample.attributes.get("scene")
    if recipe is None or not sample.answer:
        return None
    scene = Scene.from_json(dict(recipe))
    mentioned = [phrase for phrase in scene.objects if re.search(rf"\b{phrase}\b", sample.answer)]
    if not mentioned:
        return None
    rng = generator("hallucinate", seed)
    changes = min(int(rng.integers(1, 3)), len(mentioned))
    gone = [mentioned[int(place)] for place in rng.permutation(len(mentioned))[:changes]]
    return exchanged(sample.answer, dict(zip(gone, habitual_neighbours(scene), strict=False)))


def exchanged(text: str, instead: dict[str, str]) -> str:
    """Every mention of a key replaced by its value, the article with it. Phrases are singular: `red circle`.

    >>> exchanged("I see a red circle and a blue star.", {"red circle": "orange star"})
    'I see an orange star and a blue star.'
    """
    if not instead:
        return text
    phrases = "|".join(re.escape(phrase) for phrase in instead)

    def swap(match: re.Match[str]) -> str:
        other = instead[match["phrase"]]
        if match["article"] is None:
            return other
        put = article(other)
        return put[0].upper() + put[1:] if match["article"][0].isupper() else put

    return re.sub(rf"\b(?:(?P<article>[Aa]n?) )?(?P<phrase>{phrases})\b", swap, text)
