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
from promql_values import SCRAPE_S, Play, Series, series

from semipd_agent.faults import FaultReason
from semipd_core.api.conditions import ConditionType

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "manifests" / "monitoring"
DOCUMENT = "docs/operations.md"
ALERT_LABELS = {"alertname", "alertstate", "severity", "namespace", "service", "pod", "reason"}
CLOSED = ("verdict", "latency", "role", "reason", "component", "finish")  # labels with words of fixed lists


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


# --- alerts over series that are played ------------------------------------------------------------------------

MINUTE, HOUR = 2, 120  # scrapes


def firing(name: str, *played: Series) -> list[dict[str, str]]:
    """The labels with which it has fired by now."""
    rule = ALERTS[name]
    play = Play(played, {record: read(each["expr"])[0].value for record, each in RECORDS.items()})
    value = read(rule["expr"])[0].value
    minutes, unit = int(rule["for"][:-1]), rule["for"][-1]
    assert unit == "m"
    found = [set(value(play, -scrape * SCRAPE_S)) for scrape in range(minutes * MINUTE + 1)]
    return [dict(labels) for labels in set.intersection(*found)]


def counted(metric: str, per_scrape: float, scrapes: int = 2 * HOUR, **labels: str) -> Series:
    return series(metric, [per_scrape * number for number in range(scrapes)], **labels)


def windows(percentile: float, attained: list[int], missed: list[int]) -> list[Series]:
    """Of the requests of one service, at each scrape."""
    chat = {"namespace": "team-a", "name": "chat"}
    target = [percentile / 100] * len(attained)
    return [
        series("semipd_service_slo_attainment_target_ratio", target, **chat),
        series("semipd_service_window_requests", attained, verdict="attained", **chat),
        series("semipd_service_window_requests", missed, verdict="missed", **chat),
    ]


BADLY, SLIGHTLY = "SemiPDSLOMissedBadly", "SemiPDSLOMissed"


def test_a_service_that_misses_badly_pages_and_is_told() -> None:
    played = windows(99, [18] * 7 * HOUR, [2] * 7 * HOUR)
    assert firing(BADLY, *played) == firing(SLIGHTLY, *played) == [{"namespace": "team-a", "name": "chat"}]


def test_a_service_that_keeps_its_slo_is_silent() -> None:
    played = windows(90, [95] * 7 * HOUR, [5] * 7 * HOUR)
    assert firing(BADLY, *played) == firing(SLIGHTLY, *played) == []


def test_one_missed_request_of_a_service_with_few_pages_nobody() -> None:
    """Each is in two windows. Of 21 requests one is nearly 5 %, where percentile 99 allows 1 %."""
    scrapes = 7 * HOUR
    few = [1 if number % (3 * MINUTE) < 4 else 0 for number in range(scrapes)]
    one = [1 if scrapes - number in {5, 6} else 0 for number in range(scrapes)]
    played = windows(99, few, one)
    ratio = read("semipd_service:requests_missed:ratio30m > 3 * semipd_service:miss_budget:ratio")[0].value
    records = {record: read(each["expr"])[0].value for record, each in RECORDS.items()}
    assert ratio(Play(played, records), 0.0), "by its share alone it would"
    assert firing(BADLY, *played) == []


def test_a_few_missed_requests_of_six_hours_are_not_told() -> None:
    scrapes = 7 * HOUR
    few = [1 if number % (10 * MINUTE) < 2 else 0 for number in range(scrapes)]
    two = [1 if scrapes - number in {30, 31, 60, 61} else 0 for number in range(scrapes)]
    assert firing(SLIGHTLY, *windows(99, few, two)) == []


CUT = "SemiPDAnswersCut"
CHAT = {"namespace": "team-a", "service": "chat"}


def generations(**per_scrape: float) -> list[Series]:
    return [
        counted("semipd_frontend_generations_total", each, finish=finish, pod="chat-1", **CHAT)
        for finish, each in per_scrape.items()
    ]


def proxied(component: str, requests: float, cut: float) -> list[Series]:
    pod = {"component": component, "pod": f"chat-{component}", **CHAT}
    return [
        counted("semipd_proxy_requests_total", requests, status="200", **pod),
        counted("semipd_proxy_streams_cut_total", cut, **pod),
    ]


@pytest.mark.parametrize(
    "played",
    [
        pytest.param(generations(stop=98, cut=2), id="by front ends"),
        pytest.param(proxied("proxy", 100, 2), id="by pods, as proxies saw it"),
        pytest.param(proxied("engine", 100, 2), id="by engines of a pod that has several"),
        pytest.param(
            [*proxied("proxy", 1000, 0), *proxied("engine", 1000, 12)],
            id="by such engines behind proxies, which count the same requests",
        ),
        pytest.param(
            [*proxied("proxy", 0, 0), *proxied("engine", 100, 2)],
            id="by such engines, behind proxies that are not asked yet",
        ),
    ],
)
def test_answers_that_end_in_the_middle_are_told(played: list[Series]) -> None:
    assert firing(CUT, *played) == [CHAT]


@pytest.mark.parametrize(
    "played",
    [
        pytest.param(generations(stop=90, error=10, cut=0), id="refused before a token"),
        pytest.param(generations(stop=1000, cut=5), id="few by front ends"),
        pytest.param([*proxied("proxy", 1000, 5), *proxied("engine", 1000, 4)], id="few by proxies"),
        pytest.param([*generations(stop=0, cut=0), *proxied("proxy", 0, 0)], id="no requests"),
    ],
)
def test_answers_that_do_not_are_not(played: list[Series]) -> None:
    assert firing(CUT, *played) == []


def leads(values: list[float | None], pod: str = "semipd-operator-1", **labels: str) -> Series:
    where = {"namespace": "semipd-system", "pod": pod, **labels}
    return series("semipd_operator_leads", values, **where)


ALWAYS: list[float | None] = [1.0] * HOUR
NEVER: list[float | None] = [0.0] * HOUR
GONE: list[float | None] = [*ALWAYS, *[None] * (30 * MINUTE)]
CAME: list[float | None] = [*[None] * HOUR, *[1.0] * (30 * MINUTE)]


@pytest.mark.parametrize(
    ("played", "where"),
    [
        pytest.param([], [{}], id="none was ever scraped"),
        pytest.param([leads(NEVER), leads(NEVER, "2")], [{"namespace": "semipd-system"}], id="none leads"),
        pytest.param(
            [leads([1.0] * len(GONE)), leads(GONE, namespace="semipd-team")],
            [{"namespace": "semipd-team"}],
            id="one of two installations is gone",
        ),
        pytest.param([leads(ALWAYS), leads(NEVER, "2")], [], id="one of two leads"),
        pytest.param([leads(GONE), leads(CAME, "2")], [], id="another one has taken over"),
    ],
)
def test_each_installation_without_a_leader_pages(played: list[Series], where: list[dict[str, str]]) -> None:
    assert firing("SemiPDOperatorNoLeader", *played) == where


def rounds(
    seconds: float, *, left: list[float] | None = None, per_scrape: float = 2, leads: float = 1
) -> list[Series]:
    """Of an operator with the usual period."""
    pod = {"namespace": "semipd-system", "pod": "semipd-operator-1"}
    return [
        series("semipd_operator_round_seconds", [seconds] * HOUR, **pod),
        series("semipd_operator_round_period_seconds", [15.0] * HOUR, **pod),
        series("semipd_operator_round_services_left", left or [0.0] * HOUR, **pod),
        counted("semipd_operator_rounds", per_scrape, HOUR, **pod),
        series("semipd_operator_leads", [leads] * HOUR, **pod),
    ]


@pytest.mark.parametrize(
    "played",
    [
        pytest.param(rounds(14.6), id="that take their period"),
        pytest.param(rounds(12.0, left=[3.0] * HOUR), id="that leave services each time"),
        pytest.param(rounds(5.0, per_scrape=0), id="that do not end"),
    ],
)
def test_rounds_are_told(played: list[Series]) -> None:
    assert firing("SemiPDOperatorRoundsSlow", *played) == [
        {"namespace": "semipd-system", "pod": "semipd-operator-1"}
    ]


@pytest.mark.parametrize(
    "played",
    [
        pytest.param(rounds(13.9), id="of a large fleet that has its time"),
        pytest.param(rounds(12.0, left=[3.0, 0.0] * (HOUR // 2)), id="that leave services now and then"),
        pytest.param(rounds(14.6, left=[3.0] * HOUR, per_scrape=0, leads=0), id="of who led once"),
    ],
)
def test_rounds_are_not_told(played: list[Series]) -> None:
    assert firing("SemiPDOperatorRoundsSlow", *played) == []


# --- the runbook and the dashboard -----------------------------------------------------------------------------


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


def schema_at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Of a field, by kubectl's path to it. Raises: KeyError if there is no such field."""
    for step in re.findall(r"\.(\w+)|\[\?\(@\.(\w+)==", path):
        name, key = step
        if name:
            schema = (
                schema["properties"][name] if "items" not in schema else schema["items"]["properties"][name]
            )
        else:
            assert schema["x-kubernetes-list-map-keys"] == [key]
    return schema


def test_the_command_for_faults_shows_fields_of_partitions() -> None:
    command = re.search(
        r"kubectl get semipdpartitions .*custom-columns='(.+)'", (ROOT / DOCUMENT).read_text()
    )
    assert command is not None
    kind = yaml.safe_load((ROOT / "crds" / "semipdpartitions.yaml").read_text())
    schema = kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    columns = dict(column.split(":", 1) for column in command[1].split(","))
    assert columns.pop("POD") == ".metadata.name"
    assert {schema_at(schema, path)["type"] for path in columns.values()} == {"string"}
    assert {re.sub(r".*\.", "", path) for path in columns.values()} == {"reason", "message"}
    assert re.findall(r'@\.type=="(\w+)"', command[1]) == [ConditionType.DEGRADED] * 2


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
