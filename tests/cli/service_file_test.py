"""A service file is YAML with one object and each key once; all else is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from semipd_cli.service_file import parse_document, read_service
from semipd_core.errors import InvalidSpec

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("text", "path", "given"),
    [
        pytest.param("spec: 1\nspec: 2\n", "f.yaml:2", "the key 'spec' twice", id="a key twice"),
        pytest.param(
            "a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yaml:4", "the key 'b' twice", id="a nested key twice"
        ),
        pytest.param("a: [1, {x: 1, x: 2}]\n", "f.yaml:1", "the key 'x' twice", id="a key twice in one line"),
        pytest.param("", "f.yaml", "0 documents", id="an empty file"),
        pytest.param("# nothing\n---\n", "f.yaml", "0 documents", id="comments alone"),
        pytest.param("a: 1\n---\nb: 2\n", "f.yaml", "2 documents", id="two documents"),
        pytest.param("- a\n- b\n", "f.yaml", "a list", id="a list"),
        pytest.param("chat\n", "f.yaml", "'chat'", id="a word"),
        pytest.param(
            "a: [1,\n", "f.yaml:2", "expected the node content, but found '<stream end>'", id="cut off"
        ),
        pytest.param("a: b: c\n", "f.yaml:1", "mapping values are not allowed here", id="two colons"),
        pytest.param(
            "a: !!python/name:os.system x\n",
            "f.yaml:1",
            "could not determine a constructor",
            id="a python tag",
        ),
        pytest.param("a: *other\n", "f.yaml:1", "found undefined alias 'other'", id="an alias of nothing"),
        pytest.param("a: \x01\n", "f.yaml", "special characters are not allowed", id="a control character"),
        pytest.param("? [x]\n: 1\n", "f.yaml:1", "found unhashable key", id="a list as key"),
    ],
)
def test_text_is_refused(text: str, path: str, given: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_document(text, "f.yaml")
    assert refused.value.path == path
    assert given in repr(refused.value.given)


def test_a_date_is_text_as_in_json() -> None:
    assert parse_document("at: 2026-01-01T00:00:00Z\n", "f") == {"at": "2026-01-01T00:00:00Z"}


def test_merged_keys_may_be_overridden() -> None:
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}\n"
    assert parse_document(text, "f") == {"base": {"a": 1, "b": 2}, "other": {"a": 3, "b": 2}}


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        pytest.param(lambda path: None, "a readable file (No such file or directory)", id="missing"),
        pytest.param(lambda path: path.mkdir(), "a readable file (Is a directory)", id="a directory"),
        pytest.param(
            lambda path: path.write_bytes(b"a: \xff\n"), "a file in UTF-8 (byte 3 is not)", id="not UTF-8"
        ),
        pytest.param(
            lambda path: path.write_text("#" * 2**20 + "\n"), "a file of at most 1 MiB", id="too large"
        ),
    ],
)
def test_a_file_is_refused(tmp_path: Path, make: object, allowed: str) -> None:
    path = tmp_path / "service.yaml"
    make(path)  # type: ignore[operator]
    with pytest.raises(InvalidSpec) as refused:
        read_service(str(path))
    assert (refused.value.path, refused.value.given, refused.value.allowed) == ("-f", str(path), allowed)


def test_the_short_example_is_read() -> None:
    service = read_service(str(EXAMPLES / "semipdservice.yaml"))
    assert (service.spec.model.uri, service.spec.replicas) == ("builtin://smollm2-135m", 2)
    assert (service.spec.slo.ttft.target_milliseconds, service.spec.slo.tpot.target_milliseconds) == (
        2000,
        225,
    )
