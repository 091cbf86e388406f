"""What a model's own processor and template make of a source's prompts and answers, found out without its weights.

A prompt is counted, not encoded, so that thousands take seconds; each size of image is shown to the processor once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from parallax.models.encoding.chat import CannotWrite
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.encoding.token_counts import TokenCounts
from parallax.records import BadImage, Conversation, Response, naming


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with the answers that are known: of a sample its own, of a pair all of its responses."""

    conversation: Conversation
    answers: tuple[Response, ...] = ()


@dataclass
class PromptFacts:
    """Counts over some prompts."""

    prompts: list[int] = field(default_factory=list)  # tokens of each prompt that can be written, image tokens included
    answers: list[int] = field(
        default_factory=list
    )  # tokens of the longest answer to each of them; 0 where none is known
    refused: Counter[str] = field(default_factory=Counter)  # prompts the model cannot take, by reason
    why: list[str] = field(default_factory=list)  # the first of each reason, in words
    control_tokens: Counter[str] = field(default_factory=Counter)  # control tokens of the model that stand in texts


def prompt_facts(encoder: PromptEncoder, asked: Sequence[Asked], room: int = 1) -> PromptFacts:
    """Look at prompts and answers. `room`: tokens that are to be left for an answer where none is known."""
    counts, facts = TokenCounts(encoder), PromptFacts()
    for item in asked:
        parts = [part for m in item.conversation.messages for part in m.parts if isinstance(part, str)]
        for text in [*parts, *(answer.text for answer in item.answers)]:
            facts.control_tokens.update(encoder.chat.control.found(text))
        try:
            with naming(item.conversation):
                (prompt,) = counts.prompts([item.conversation])
        except BadImage as bad:
            _refuse(facts, "bad_image", str(bad))
            continue
        except CannotWrite as error:
            _refuse(facts, "template", str(error))
            continue
        except ValueError as error:
            _refuse(facts, "bad_text", str(error))
            continue
        longest = max(counts.responses(item.answers), default=0)
        facts.prompts.append(prompt)
        facts.answers.append(longest)
        if prompt + max(longest, room) > encoder.max_context:
            needed, context = max(longest, room), encoder.max_context
            _refuse(
                facts,
                "long_prompt",
                f"{prompt} tokens of a prompt and {needed} of an answer do not fit the {context} of the context",
            )
    return facts


def _refuse(facts: PromptFacts, reason: str, why: str) -> None:
    if not facts.refused[reason]:
        facts.why.append(why)
    facts.refused[reason] += 1
