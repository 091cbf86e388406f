"""How an answer is taken apart into claims and each claim is asked about: the texts of a file in `conf/prompts/`.

Claims are found by a pattern, or by a model that is asked to list them and, after that, to turn each into a question (RLAIF-V,
arXiv 2405.17220, section 3.2). Everything that is filled in stands on one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from parallax.preference.critic_prompt import fill, one_line, read_prompt_file

LONGEST = 20_000  # characters of an answer that a pattern looks at
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):])\s*")


@dataclass(frozen=True, slots=True)
class ClaimPrompt:
    """The texts of a claims prompt.

    Args:
        check: the yes/no question that is asked with the image; knows {claim} and {question}. {question} is the claim as a
            question, where `ask` makes one.
        pattern: a regular expression whose matches (its group `claim`, where it has one) are the claims. Or:
        split: has the model list the claims, one a line; knows {question} and {answer}.
        ask: has the model turn them into questions, one a line in the same order; knows {claims}. Without it `check` has {claim}.
    """

    check: str
    pattern: str = ""
    split: str = ""
    ask: str = ""

    def found(self, answer: str) -> list[str]:
        """What the pattern finds, in order, each once."""
        matches = re.finditer(self.pattern, answer[:LONGEST], re.IGNORECASE)
        named = "claim" in re.compile(self.pattern).groupindex
        return list(dict.fromkeys(one_line(match["claim"] if named else match[0]) for match in matches))

    def split_text(self, question: str, answer: str) -> str:
        return fill(self.split, {"question": one_line(question), "answer": one_line(answer)})

    def ask_text(self, claims: list[str]) -> str:
        return fill(self.ask, {"claims": "\n".join(f"- {claim}" for claim in claims)})

    def check_text(self, claim: str, question: str) -> str:
        return fill(self.check, {"claim": claim, "question": question})


def listed(text: str) -> list[str]:
    """The lines of a list that a model wrote, without their bullets or numbers; lines without a word and headings are left out.

    >>> listed("### Claims\\n- A dog lies there.\\n2. It is brown.\\n-")
    ['A dog lies there.', 'It is brown.']
    """
    lines = [one_line(_BULLET.sub("", line)) for line in text.splitlines() if "###" not in line]
    return [line for line in lines if re.search(r"\w", line)]


def load_claim_prompt(name: str) -> ClaimPrompt:
    """Read a prompt file. Raises FileNotFoundError or ValueError, in sentences."""
    content, file = read_prompt_file(name, "claims*")
    known = [field.name for field in fields(ClaimPrompt)]
    if unknown := sorted(set(content) - set(known)):
        raise ValueError(f"{file} has {', '.join(unknown)}; a claims prompt is made of {', '.join(known)}")
    if wrong := [key for key, text in content.items() if not isinstance(text, str)]:
        raise ValueError(f"{file}: {wrong[0]} is {content[wrong[0]]!r}; it must be a text")
    prompt = ClaimPrompt(**{"check": "", **content})
    if bool(prompt.pattern) == bool(prompt.split):
        raise ValueError(f"{file}: give either pattern or split, which say how claims are found")
    for key, words in (("check", ("{claim}", "{question}")), ("split", ("{answer}",)), ("ask", ("{claims}",))):
        text = str(getattr(prompt, key))
        if (text or key == "check") and not any(word in text for word in words):
            raise ValueError(f"{file}: {key} lacks {' or '.join(words)}")
    if "{question}" in prompt.check and not prompt.ask:
        raise ValueError(f"{file}: check has {{question}} and there is no ask that makes one; use {{claim}}")
    try:
        re.compile(prompt.pattern)
    except re.error as error:
        raise ValueError(f"{file}: pattern is no regular expression ({error})") from error
    return prompt
