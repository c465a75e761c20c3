"""Alerts and dashboard: queries over metrics that are exposed, and a section on what to do for each alert."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from exposed_metrics import exposed_metrics
from promql import BadPromQL, Exposed, Matcher, Reader, Result

from semipd_agent.faults import FaultReason

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "manifests" / "monitoring"
DOCUMENT = "docs/operations.md"
ALERT_LABELS = {"alertname", "alertstate", "severity", "namespace", "service", "pod", "reason"}
CLOSED = ("verdict", "latency", "role", "reason", "component")  # labels with words of fixed lists


@cache
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in rules() if "record" in rule}


@cache
def known() -> dict[str, Exposed]:
    """What is exposed and what is recorded, of which a record may use what stands before it."""
    found = exposed_metrics()
    for name, rule in RECORDS.items():
        found[name] = Exposed(Reader(rule["expr"], found).read().labels, counts_up=False, values={})
    return found


def read(expression: str, more: dict[str, Exposed] | None = None) -> tuple[Result, list[Matcher]]:
    reader = Reader(expression, {**known(), **(more or {})})
    return reader.read(), reader.matchers


@cache
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "semipd.json").read_text())
    return found


def targets() -> list[Any]:
    return [
        pytest.param(target, id=f"{panel['title']} {target['refId']}")
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def unseen(matcher: Matcher) -> set[str]:
    """Words of a matcher that no series has."""
    seen = known()[matcher.metric].values.get(matcher.label, frozenset())
    words = matcher.value.split("|") if "~" in matcher.sign else [matcher.value]
    return {word for word in words if not any(re.fullmatch(word, value) for value in seen)}


# --- queries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule.get("record"))
def test_rules_are_about_metrics_labels_and_words_that_are_exposed(rule: dict[str, Any]) -> None:
    _, matchers = read(rule["expr"])
    assert {each: unseen(each) for each in matchers if each.label in CLOSED and unseen(each)} == {}


@pytest.mark.parametrize("target", targets())
def test_panels_are_about_metrics_and_labels_that_are_exposed(target: dict[str, Any]) -> None:
    text = target["expr"].replace("$__rate_interval", "5m")
    alerts = {"ALERTS": Exposed(frozenset(ALERT_LABELS), counts_up=False, values={})}
    result, _ = read(text, alerts)
    assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) <= result.labels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("semipd_operator_lead", "is not exposed", id="a metric that is not there"),
        pytest.param('semipd_agent_fault{why="x"}', "no label 'why'", id="a label that is not there"),
        pytest.param("sum by (name) (semipd_agent_fault)", "by ['name'] of a vector", id="grouped by one"),
        pytest.param("semipd_service_moves_total[5m]", "gives a range", id="a range"),
        pytest.param("rate(semipd_service_moves_total)", "rate of a vector", id="a rate without a range"),
        pytest.param(
            "rate(semipd_agent_fault[5m])", "rate of what never counts up", id="the rate of a gauge"
        ),
        pytest.param(
            "max_over_time(semipd_service_moves_total[5m])", "of what counts up", id="the greatest count"
        ),
        pytest.param(
            "sum by (pod) (semipd_operator_leads) / sum by (namespace) (semipd_operator_leads)",
            "/ of labels ['pod'] and ['namespace']",
            id="sides that do not match",
        ),
        pytest.param("(semipd_operator_leads", "got 'the end', wanted: )", id="an open bracket"),
        pytest.param("semipd_operator_leads)", "got ')', wanted: the end", id="a closed one"),
        pytest.param('semipd_agent_fault{reason="x}', "got '\"x}'", id="an open string"),
        pytest.param("semipd_operator_leads == 1s", "wanted: a metric", id="a duration for a number"),
        pytest.param("1 + 1", "needs vectors", id="no series"),
        pytest.param("sum without (pod) (semipd_operator_leads)", "wanted: by", id="what is not known"),
    ],
)
def test_the_reader_refuses_what_would_never_fire(text: str, said: str) -> None:
    with pytest.raises(BadPromQL, match=re.escape(said)):
        read(text)


def test_the_reader_lets_and_bind_stronger_than_or() -> None:
    """Else `and` would be between what has no labels and what has some."""
    read("absent(semipd_operator_leads) or semipd_operator_turns and semipd_operator_leads == 1")
    with pytest.raises(BadPromQL, match=re.escape("and of labels []")):
        read("(absent(semipd_operator_leads) or semipd_operator_turns) and semipd_operator_leads == 1")


# --- alerts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_grave_it_is_where_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    labels = read(rule["expr"])[0].labels
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"{DOCUMENT}#{name.lower()}"
    words = " ".join([*rule["labels"].values(), *rule["annotations"].values()])
    assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels
    assert set(re.findall(r"{{ (.*?) }}", words)) <= {
        *(f"$labels.{label}" for label in labels),
        "$value | humanize",
        "$value | humanizePercentage",
    }
    if "semipd_operator_" not in rule["expr"]:
        assert {"namespace", "service"} <= labels | rule["labels"].keys()


def test_nobody_gets_up_for_a_state_that_has_not_lasted() -> None:
    """Counts over hours have lasted by themselves."""
    assert [name for name, rule in ALERTS.items() if "for" not in rule] == [
        "SemiPDCanariesFail",
        "SemiPDMPSFaultsRepeat",
    ]
    assert [name for name, rule in ALERTS.items() if rule["labels"]["severity"] == "critical"] == [
        "SemiPDSLOMissedBadly",
        "SemiPDRequestsFail",
        "SemiPDNoPodReady",
        "SemiPDOperatorNoLeader",
    ]


@pytest.mark.parametrize("reason", FaultReason)
def test_every_fault_that_lasts_has_one_alert(reason: FaultReason) -> None:
    fires = [
        name
        for name, rule in ALERTS.items()
        for each in read(rule["expr"])[1]
        if each.metric == "semipd_agent_fault" and re.fullmatch(each.value, reason)
    ]
    assert len(fires) == 1


def test_every_alert_has_a_section_and_every_section_an_alert_in_their_order() -> None:
    text = (ROOT / DOCUMENT).read_text()
    assert re.findall(r"^### (\S+)$", text, flags=re.MULTILINE) == list(ALERTS)


def test_the_documents_that_a_section_leads_to_are_there() -> None:
    path = ROOT / DOCUMENT
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / link).exists(), link


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_variables_are_asked_of_a_metric_that_has_their_labels() -> None:
    for variable in dashboard()["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        assert match is not None
        assert match[2] in read(match[1])[0].labels
