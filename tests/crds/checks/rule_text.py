"""The CEL rules of a schema, and what their messages say, without evaluating them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crd_files import Crd, nodes

# A message is one text with places for values: "got %d, allowed: …".format([self.replicas]). With texts joined by
# `+` the API server would refuse the whole definition: it cannot bound the length of a number that was turned into text.
_MESSAGE = re.compile(r"""(?P<quote>["'])(?P<text>.*)(?P=quote) ?\.format\(\[(?P<values>.*)\]\)""")
_VALUE = r"(?:(?<=')[^']*|[^\s,']+)"  # between quotes, or one word


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    kind: str
    at: str  # path of the schema that holds it
    text: dict[str, Any]

    @property
    def path(self) -> str:
        """Of the field that its error names."""
        return f"{self.at}{self.text.get('fieldPath', '')}"

    @property
    def sources(self) -> str:
        """All of its CEL."""
        return f"{self.text['rule']} {self.text.get('messageExpression', '')}"

    def says(self, words: str) -> bool:
        """Whether its message is `words` for some values."""
        expression = self.text.get("messageExpression")
        pattern = re.escape(self.text["message"]) if expression is None else message_pattern(expression)
        return re.fullmatch(pattern, words) is not None


def rules(crd: Crd) -> Iterator[Rule]:
    for path, node in nodes(crd.schema):
        for text in node.get("x-kubernetes-validations", ()):
            yield Rule(kind=crd.kind, at=path, text=text)


def message_pattern(expression: str) -> str:
    """A regular expression for what a `messageExpression` can say.

    Raises: ValueError if it is not a text with as many places as values.
    """
    message = _MESSAGE.fullmatch(expression)
    if message is None or len(re.findall("%[ds]", message["text"])) != len(_split(message["values"])):
        raise ValueError(f"not a text with its values: {expression}")
    return re.sub("%[ds]", lambda _: _VALUE, re.escape(message["text"]))


def _split(values: str) -> list[str]:
    """By the commas outside brackets."""
    parts, depth = [""], 0
    for character in values:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
