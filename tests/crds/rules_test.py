"""Each rule across fields stands in the CRDs too, and says there what the decoder says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import pytest
from bad_classes_and_partitions import CLASSES, PARTITIONS
from bad_manifest import Bad, By
from bad_services import SERVICES
from crd_files import CLASS as CLASS_CRD
from crd_files import CRDS, SERVICE, broken, node_at
from rule_text import Rule, message_pattern, rules
from wire_checks import places

from semipd_core.api import model_uri, quantity
from semipd_core.api import rules as decoder_rules
from semipd_core.api.codec import decode_class, decode_partition, decode_service
from semipd_core.errors import InvalidSpec

RULES = [rule for crd in CRDS for rule in rules(crd)]
BY_RULE = [bad for bad in (*SERVICES, *CLASSES, *PARTITIONS) if bad.by is By.RULE]
DECODERS: Mapping[str, Callable[[object], object]] = {
    "SemiPDService": decode_service,
    "SemiPDClass": decode_class,
    "SemiPDPartition": decode_partition,
}
# Rules that look at the object before the change; the decoder sees one object alone.
OF_UPDATES = [("SemiPDService", "spec.placement")]
# Refusals of `rules.py` that keywords of the schema stand for.
BY_KEYWORD = [
    pytest.param("spec.device", "enum", ["CUDA", "CPU"], id="a class falls back to a device"),
    pytest.param("spec.allowedIsolations", "minItems", 1, id="a class allows some isolation"),
    pytest.param("spec.allowedIsolations", "x-kubernetes-list-type", "set", id="no isolation twice"),
]


def words_of(bad: Bad) -> tuple[str, str]:
    """Path and words of the decoder."""
    with pytest.raises(InvalidSpec) as refused:
        DECODERS[bad.kind](bad.manifest)
    return refused.value.path, f"got {refused.value.given!r}, allowed: {refused.value.allowed}"


def kept_by(bad: Bad) -> list[Rule]:
    path, words = words_of(bad)
    path = re.sub(r"\[\d+\]", "[]", path)
    return [rule for rule in RULES if (rule.kind, rule.path) == (bad.kind, path) and _says(rule, words)]


def _says(rule: Rule, words: str) -> bool:
    """A rule may leave the quotes around a text out."""
    return rule.says(words) or rule.says(re.sub("^got '(.*)', allowed", r"got \1, allowed", words))


@pytest.mark.parametrize("bad", BY_RULE, ids=lambda bad: f"{bad.kind}: {bad.id}")
def test_one_rule_says_what_the_decoder_says(bad: Bad) -> None:
    assert len(kept_by(bad)) == 1


def test_every_rule_has_a_manifest_that_it_refuses() -> None:
    refused = {id(rule) for bad in BY_RULE for rule in kept_by(bad)}
    alone = [(rule.kind, rule.path) for rule in RULES if id(rule) not in refused]
    assert alone == OF_UPDATES


def test_a_rule_that_says_something_else_is_caught() -> None:
    (rule,) = kept_by(next(bad for bad in BY_RULE if bad.id == "an autoscaler the wrong way round"))
    other = Rule(
        kind=rule.kind, at=rule.at, text=rule.text | {"messageExpression": "'got %s'.format([self])"}
    )
    words = "got 3, allowed: at most maxReplicas, which is 2"
    assert rule.says(words)
    assert not other.says(words)
    assert not rule.says(words + " or so")


REFUSING = {  # the functions of `rules.py` that refuse something: the manifests above or a keyword below show it
    "_placement_defect": "replicas on every node",
    "_bounds_defect": "bounds the wrong way round",
    "_split_defect": "an initial split outside its bounds",
    "_autoscale_defect": "an autoscaler the wrong way round",
    "_rollout_defect": "a rollout that cannot move",
    "_selector_defect": "a space in a label's key",
    "_toleration_defect": "a toleration of no key",
    "_class_choices_defect": "",  # BY_KEYWORD
}


def test_no_rule_of_the_decoder_is_missing_here() -> None:
    functions = inspect.getmembers(decoder_rules, inspect.isfunction)
    assert {name for name, function in functions if "InvalidSpec(" in inspect.getsource(function)} == set(
        REFUSING
    )
    assert set(REFUSING.values()) - {""} <= {bad.id for bad in BY_RULE}


@pytest.mark.parametrize(("path", "keyword", "value"), BY_KEYWORD)
def test_a_keyword_stands_for_a_rule(path: str, keyword: str, value: object) -> None:
    assert node_at(CLASS_CRD.schema, path)[keyword] == value


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}: {rule.path}")
def test_a_rule_has_reason_words_and_a_field_that_is_there(rule: Rule) -> None:
    crd = next(crd for crd in CRDS if crd.kind == rule.kind)
    assert node_at(crd.schema, rule.path)
    assert rule.text["reason"] == "FieldValueInvalid"
    assert "\n" not in rule.sources + rule.text["message"]
    assert message_pattern(rule.text.get("messageExpression", "'got %d'.format([0])")).startswith("got")


def test_a_field_that_is_not_there_is_caught() -> None:
    with pytest.raises(KeyError):
        node_at(SERVICE.schema, "spec.autoscale.minPods")


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("'got ' + string(self.replicas)", id="texts joined, which the API server cannot bound"),
        pytest.param("'got %d of %d'.format([self.replicas])", id="too few values"),
        pytest.param("'got %d'.format([self.replicas, self.replicas])", id="too many values"),
    ],
)
def test_a_message_without_its_values_is_caught(expression: str) -> None:
    with pytest.raises(ValueError, match="not a text with its values"):
        message_pattern(expression)


def assumed_defaults(rule: Rule) -> list[tuple[str, str]]:
    """Path of each field that a rule reads with `orValue`, and the value."""
    found = re.findall(r"[sS]elf((?:\.\??\w+)+?)\.orValue\(([^)]*)\)", rule.sources)
    return [(rule.at + steps.replace("?", ""), value) for steps, value in found]


def wrong_defaults(rule: Rule, defaults: Mapping[str, object]) -> list[str]:
    return [
        f"{path} is taken for {value}, its default is {defaults[path]}"
        for path, value in assumed_defaults(rule)
        if value != _as_cel(defaults[path])
    ]


def _as_cel(default: object) -> str:
    return f"'{default}'" if isinstance(default, StrEnum) else str(default)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}: {rule.path}")
def test_a_rule_takes_an_absent_field_for_its_default(rule: Rule) -> None:
    crd = next(crd for crd in CRDS if crd.kind == rule.kind)
    assert (
        wrong_defaults(rule, {place.path: place.default for place in places(crd.wire_type, crd.schema)}) == []
    )


def test_a_wrong_default_is_caught() -> None:
    rule = Rule(kind="SemiPDService", at="spec", text={"rule": "self.?slo.?percentile.orValue(95) < 99"})
    assert wrong_defaults(rule, {"spec.slo.percentile": 90}) == [
        "spec.slo.percentile is taken for 95, its default is 90"
    ]


def test_defaults_are_assumed_somewhere() -> None:
    assert {path for rule in RULES for path, _ in assumed_defaults(rule)} >= {
        "spec.placement",
        "spec.bounds.decodeMinPercent",
        "spec.partition.bounds.prefillMaxPercent",
        "spec.autoscale.minReplicas",
        "spec.rollout.maxSurge",
    }


def patterns_at(schema: Mapping[str, Any], path: str) -> list[str]:
    texts = node_at(schema, path)["x-kubernetes-validations"]
    return [pattern for text in texts for pattern in re.findall(r"matches\(r'([^']*)'\)", text["rule"])]


def test_the_forms_of_a_uri_are_those_of_the_decoder() -> None:
    schemes = f"^({'|'.join(model_uri.SCHEMES)})://"
    forms = [f"^{scheme}://{form}$" for scheme, (form, _) in model_uri._FORMS.items()]
    assert patterns_at(SERVICE.schema, "spec.model.uri") == [schemes, *forms]


@pytest.mark.parametrize("field", ["cpu", "memory", "kvCache"])
def test_the_form_of_a_quantity_is_that_of_the_decoder(field: str) -> None:
    assert patterns_at(SERVICE.schema, f"spec.resources.{field}") == [f"^{quantity._FORM.pattern}$"]


def test_another_form_is_caught() -> None:
    text = {"rule": "self.matches(r'^hf://.*$')"}
    schema = broken(SERVICE.schema, "spec.model.uri", {"x-kubernetes-validations": [text]})
    assert patterns_at(schema, "spec.model.uri") == ["^hf://.*$"]
