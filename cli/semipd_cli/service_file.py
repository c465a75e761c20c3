"""Reading a service file: YAML, strictly, one object."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from semipd_core.api.codec import decode_service
from semipd_core.api.service import SemiPDService
from semipd_core.api.shape import Words, shown
from semipd_core.errors import InvalidSpec

_FLAG = "-f"
_LARGEST_BYTES = 1 << 20  # etcd takes no larger object either
_TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"


class _StrictLoader(yaml.SafeLoader):
    """Refuses duplicate keys, and reads a date as text, as JSON would have it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_service(path: str) -> SemiPDService:
    """Raises: InvalidSpec."""
    return decode_service(parse_document(_read(path), path))


def parse_document(text: str, name: str) -> object:
    """The one document in `text`; `name` and the line stand in errors.

    Raises: InvalidSpec.
    """
    try:
        documents = [document for document in yaml.load_all(text, _StrictLoader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidSpec(
            f"{name}{line}", Words(error.problem or "no YAML"), "YAML with each key once"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidSpec(name, Words(re.sub(r"\s+", " ", str(error))), "YAML with each key once") from None
    if len(documents) != 1:
        raise InvalidSpec(name, Words(f"{len(documents)} documents"), "one SemiPDService")
    if not isinstance(documents[0], dict):
        raise InvalidSpec(name, shown(documents[0]), "a mapping: one SemiPDService")
    return documents[0]


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
        if len(data) > _LARGEST_BYTES:
            raise InvalidSpec(_FLAG, path, "a file of at most 1 MiB")
        return data.decode("utf-8")
    except OSError as error:
        raise InvalidSpec(_FLAG, path, f"a readable file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InvalidSpec(_FLAG, path, f"a file in UTF-8 (byte {error.start} is not)") from None
