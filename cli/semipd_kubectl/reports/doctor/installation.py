"""The API server, the CRDs, the operator, its admission policy, and the default class."""

from __future__ import annotations

import re
from collections.abc import Iterator

from semipd_core.api.fields import API_VERSION
from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION
from semipd_kubectl.api.failures import INSTALL, INSTALL_ONCE
from semipd_kubectl.errors import ApiError, NotThere
from semipd_kubectl.reports.doctor.findings import (
    OPERATOR,
    Check,
    Findings,
    Object,
    Verdict,
    condition,
    failed,
    passed,
    unknown,
    warned,
)
from semipd_kubectl.reports.values import unix_s

# ValidatingAdmissionPolicies and the sleep of a preStop hook are there from 1.30 on.
OLDEST_MINOR = 30
VERSION = API_VERSION.rpartition("/")[2]
AGENT_POLICY = "semipd-agent-writes-its-own-partition"
POLICIES = {
    AGENT_POLICY: "an agent may write the partition of any pod",
    "semipd-service-keeps-to-its-class": "what a class forbids is refused by the operator alone",
}


def check_version(found: Findings) -> Check:
    name = "API server"
    if isinstance(found.version, ApiError):
        return unknown(name, found.version)
    said = found.version.get("gitVersion", "?")
    minor = re.match(r"\d+", str(found.version.get("minor", "")))
    if found.version.get("major") == "1" and minor and int(minor.group()) < OLDEST_MINOR:
        return failed(name, f"{said} is too old", f"Kubernetes 1.{OLDEST_MINOR} or later is needed")
    return passed(name, str(said))


def check_crds(found: Findings) -> Iterator[Check]:
    for crd_name, crd in found.crds.items():
        yield _check_crd(f"CRD {crd_name}", crd, _install_of_the_cluster(found))


def _check_crd(name: str, crd: Object | ApiError, install: str) -> Check:
    if isinstance(crd, NotThere):
        return failed(name, "it is not installed", install)
    if isinstance(crd, ApiError):
        return unknown(name, crd)
    if condition(crd, "Established").get("status") != "True":
        names = condition(crd, "NamesAccepted")
        why = names.get("message", "") if names.get("status") == "False" else ""
        return failed(name, f"it is not established {why}".rstrip(), "see `kubectl describe crd`, or wait")
    served = [version["name"] for version in crd["spec"]["versions"] if version.get("served")]
    if VERSION not in served:
        return failed(
            name,
            f"it serves {', '.join(served)}; this plugin knows {VERSION}",
            "install the plugin of the operator's release",
        )
    return passed(name, f"established, serves {', '.join(served)}")


def check_operator(found: Findings) -> Check:
    name, place = "operator", f"{found.operator_namespace}/{OPERATOR}"
    if isinstance(found.deployment, NotThere):
        return failed(name, f"no Deployment {place}", f"{INSTALL} (or say where it is: --operator-namespace)")
    if isinstance(found.deployment, ApiError):
        return unknown(name, found.deployment)
    wanted = found.deployment["spec"].get("replicas", 1)
    ready = (found.deployment.get("status") or {}).get("readyReplicas", 0)
    said = f"{ready} of {wanted} pods of {place} are ready"
    look = f"kubectl -n {found.operator_namespace} describe pods -l app.kubernetes.io/component=operator"
    if ready == 0:
        return failed(name, said, look)
    return passed(name, said) if ready >= wanted else warned(name, said, look)


def check_lease(found: Findings) -> Check:
    name, place = "operator lease", f"{found.operator_namespace}/{OPERATOR}"
    logs = f"kubectl -n {found.operator_namespace} logs deployment/{OPERATOR}"
    if isinstance(found.lease, NotThere):
        return failed(name, f"no Lease {place}: no operator has ever led", logs)
    if isinstance(found.lease, ApiError):
        return unknown(name, found.lease)
    spec = found.lease.get("spec") or {}
    holder, renewed_s = spec.get("holderIdentity"), unix_s(spec.get("renewTime") or "")
    if not holder or renewed_s is None:
        return failed(name, "nobody holds it: no operator leads", logs)
    age_s, length_s = max(0.0, found.now_s - renewed_s), spec.get("leaseDurationSeconds", 15)
    if age_s > length_s:
        return failed(
            name, f"{holder} renewed it {age_s:.0f} s ago, it lasts {length_s} s: no operator leads", logs
        )
    return passed(name, f"{holder} renewed it {age_s:.0f} s ago")


def check_classes(found: Findings) -> Check:
    name = "default class"
    if isinstance(found.classes, ApiError):
        return unknown(name, found.classes)
    marked = [
        cls["metadata"]["name"]
        for cls in found.classes
        if cls["metadata"].get("annotations", {}).get(DEFAULT_CLASS_ANNOTATION) == "true"
    ]
    if len(marked) > 1:
        return failed(
            name,
            f"{len(marked)} classes are marked: {', '.join(sorted(marked))}; the youngest counts",
            f"kubectl annotate semipdclass NAME {DEFAULT_CLASS_ANNOTATION}-   (of all but one)",
        )
    if not marked and not found.classes:
        return warned(
            name,
            "there is no SemiPDClass: built-in defaults hold, without a GPU budget",
            f'apply a SemiPDClass with the annotation {DEFAULT_CLASS_ANNOTATION}: "true"',
        )
    if not marked:
        return warned(
            name,
            "no class is marked: built-in defaults hold for services without a classRef",
            f"kubectl annotate semipdclass NAME {DEFAULT_CLASS_ANNOTATION}=true",
        )
    return passed(name, marked[0])


def check_policies(found: Findings) -> Iterator[Check]:
    """The agents' policy guards; without that of classes a refusal is a condition and no error at apply."""
    for policy, without in POLICIES.items():
        check = _check_policy(found, policy, without)
        is_grave = policy == AGENT_POLICY or check.verdict != Verdict.FAIL.value
        yield check if is_grave else warned(check.name, check.message, check.remedy)


def _check_policy(found: Findings, name: str, without: str) -> Check:
    install = _install_of_the_cluster(found)
    title = "agents' policy" if name == AGENT_POLICY else "classes' policy"
    if isinstance(found.policies, ApiError):
        return unknown(title, found.policies)
    if isinstance(found.bindings, ApiError):
        return unknown(title, found.bindings)
    policy = next((each for each in found.policies if each["metadata"]["name"] == name), None)
    if policy is None:
        return failed(title, f"no {name}: {without}", install)
    bound = [each for each in found.bindings if each["spec"].get("policyName") == name]
    if not any("Deny" in each["spec"].get("validationActions", []) for each in bound):
        return failed(title, f"{name} is not bound with Deny: it stops nobody", install)
    warnings = ((policy.get("status") or {}).get("typeChecking") or {}).get("expressionWarnings")
    if warnings:
        return warned(title, f"{name}: {warnings[0].get('warning', '')}", install)
    return passed(title, f"{name} is bound")


def _install_of_the_cluster(found: Findings) -> str:
    """What brings the kinds and policies, and no second operator."""
    return INSTALL if found.watched is None else INSTALL_ONCE
