"""Services that must be refused."""

from __future__ import annotations

from bad_manifest import CHOICE, INTEGER, OBJECT, PATTERN, QUANTITY, REQUIRED, TEXT, Bad, By, bad
from changed_manifest import ABSENT

URI, RESOURCES, PARTITION = "spec.model.uri", "spec.resources", "spec.partition"
BOUNDS, INITIAL, SCHEDULING = f"{PARTITION}.bounds", f"{PARTITION}.initial", "spec.scheduling"
BYTES = "allowed: a positive quantity of bytes such as 40Gi, 512Mi, 2G"
CPUS = 'allowed: a positive quantity of CPUs such as "4", 500m, 1.5'
NODES_DECIDE = "allowed: absent with placement EveryNode: the nodes decide"

SERVICES = (
    # required
    bad("no spec", "spec", ABSENT, REQUIRED),
    bad("no model", "spec.model", ABSENT, REQUIRED),
    bad("no uri", URI, ABSENT, REQUIRED),
    bad(
        "half a secret",
        "spec.http.apiKeySecretRef",
        {"name": "k"},
        REQUIRED,
        at="spec.http.apiKeySecretRef.key",
    ),
    bad("half a split", INITIAL, {"prefillPercent": 80}, REQUIRED, at=f"{INITIAL}.decodePercent"),
    bad("no maximum", "spec.autoscale", {"minReplicas": 1}, REQUIRED, at="spec.autoscale.maxReplicas"),
    bad("no claim", "spec.model.cache", {}, REQUIRED, at="spec.model.cache.persistentVolumeClaim"),
    # types
    bad("the model is text", "spec.model", "smollm2", OBJECT),
    bad("text for a number", "spec.replicas", "2", INTEGER),
    bad("a boolean for a number", "spec.replicas", True, INTEGER),
    bad("a fraction of a pod", "spec.replicas", 1.5, INTEGER),
    bad("percent as text", f"{BOUNDS}.prefillMinPercent", "20%", INTEGER),
    bad(
        "a number for a label",
        f"{SCHEDULING}.nodeSelector",
        {"gpus": 8},
        TEXT,
        at=f"{SCHEDULING}.nodeSelector.gpus",
    ),
    bad("text for a list", f"{SCHEDULING}.imagePullSecrets", "regcred", "must be of type array"),
    bad("a quantity is true", f"{RESOURCES}.cpu", True, QUANTITY),
    bad("a quantity without quotes", f"{RESOURCES}.cpu", 1.5, QUANTITY),
    # ranges
    bad("percent 0", f"{BOUNDS}.prefillMinPercent", 0, "should be greater than or equal to 1"),
    bad("percent 101", f"{BOUNDS}.decodeMaxPercent", 101, "should be less than or equal to 100"),
    bad("percentile 100", "spec.slo.ttft.percentile", 100, "should be less than or equal to 99"),
    bad("a target of 0 ms", "spec.slo.tpot.targetMilliseconds", 0, "should be greater than or equal to 1"),
    bad("negative replicas", "spec.replicas", -1, "should be greater than or equal to 0"),
    bad("no context", "spec.model.maxContextTokens", 0, "should be greater than or equal to 1"),
    bad("no queue", "spec.http.maxQueuedRequests", 0, "should be greater than or equal to 1"),
    bad("two days of drain", "spec.drain.timeoutSeconds", 172800, "should be less than or equal to 86400"),
    # texts
    bad("an upper-case name", "metadata.name", "Chat", PATTERN),
    bad("a dot in the name", "metadata.name", "chat.v2", PATTERN),
    bad("a name of 64 characters", "metadata.name", "a" * 64, "Too long"),
    bad("no class name", "spec.classRef", {"name": ""}, PATTERN, at="spec.classRef.name"),
    bad("an underscore", f"{SCHEDULING}.runtimeClassName", "n_v", PATTERN),
    bad("an empty served name", "spec.model.servedName", "", "should be at least 1 chars long"),
    # choices
    bad("an unknown dtype", "spec.model.dtype", "INT4", CHOICE),
    bad("an unknown placement", "spec.placement", "Everywhere", CHOICE),
    bad("an unknown device", f"{RESOURCES}.device", "TPU", CHOICE),
    bad("an unknown routing", "spec.routing", "Ingress", CHOICE),
    bad("a mode in lower case", f"{PARTITION}.mode", "auto", CHOICE),
    bad("an unknown policy", f"{PARTITION}.policy", "Fastest", CHOICE),
    bad("an unknown isolation", f"{PARTITION}.isolation", "MIG", CHOICE),
    # unknown keys
    bad("a key with more to it", f"{PARTITION}.policyName", "SLOFeedback", "unknown field", By.STRICT),
    bad("snake case", "spec.http.max_queued_requests", 1, "unknown field", By.STRICT),
    bad(
        "an unknown key in a list",
        f"{SCHEDULING}.tolerations",
        [{"key": "gpu"}, {"effects": "NoSchedule"}],
        "unknown field",
        By.STRICT,
        at=f"{SCHEDULING}.tolerations[1].effects",
    ),
    # model URIs
    bad(
        "a scheme of others",
        URI,
        "s3://b/m",
        "a URI that starts with one of hf://, pvc://, image://",
        By.RULE,
    ),
    bad("no scheme", URI, "smollm2-135m", "got 'smollm2-135m', allowed: a URI that starts with", By.RULE),
    bad("hf without organisation", URI, "hf://llama", "hf://ORG/NAME or hf://ORG/NAME@REVISION", By.RULE),
    bad("a claim in upper case", URI, "pvc://Claim/a", "allowed: pvc://CLAIM/PATH", By.RULE),
    bad("an image with a space", URI, "image://a b", "allowed: image://REGISTRY/NAME:TAG", By.RULE),
    bad("a relative file", URI, "file://a.gguf", "allowed: file:///ABSOLUTE/PATH", By.RULE),
    bad("an empty built-in", URI, "builtin://", "builtin://NAME, such as builtin://smollm2-135m", By.RULE),
    bad("a line break in a file", URI, "file:///a\nb", "allowed: file:///ABSOLUTE/PATH", By.RULE),
    bad("a URI of 1025 characters", URI, "file:///" + "x" * 1017, "Too long"),
    # quantities
    bad("a unit that is none", f"{RESOURCES}.kvCache", "40GiB", f"got 40GiB, {BYTES}", By.RULE),
    bad("no memory", f"{RESOURCES}.memory", 0, f"got 0, {BYTES}", By.RULE),
    bad("no memory in text", f"{RESOURCES}.memory", "0Gi", f"got 0Gi, {BYTES}", By.RULE),
    bad("negative memory", f"{RESOURCES}.memory", "-1Gi", f"got -1Gi, {BYTES}", By.RULE),
    bad("an endless exponent", f"{RESOURCES}.memory", "1e999999999", BYTES, By.RULE),
    bad("more than 64 bits of memory", f"{RESOURCES}.memory", "8Ei", BYTES, By.RULE),
    bad("much more than 64 bits", f"{RESOURCES}.kvCache", "1e99", BYTES, By.RULE),
    bad("words for CPUs", f"{RESOURCES}.cpu", "four", f"got four, {CPUS}", By.RULE),
    bad("negative CPUs", f"{RESOURCES}.cpu", -2, f"got -2, {CPUS}", By.RULE),
    # rules across fields
    bad(
        "bounds the wrong way round",
        BOUNDS,
        {"prefillMinPercent": 60, "prefillMaxPercent": 50},
        "got 60, allowed: at most prefillMaxPercent, which is 50",
        By.RULE,
        at=f"{BOUNDS}.prefillMinPercent",
    ),
    bad(
        "a maximum below the default minimum",
        BOUNDS,
        {"decodeMaxPercent": 30},
        "got 40, allowed: at most decodeMaxPercent, which is 30",
        By.RULE,
        at=f"{BOUNDS}.decodeMinPercent",
    ),
    bad(
        "an initial split outside the default bounds",
        INITIAL,
        {"prefillPercent": 10, "decodePercent": 100},
        "got 10, allowed: 20..100, the bounds of prefill",
        By.RULE,
        at=f"{INITIAL}.prefillPercent",
    ),
    bad(
        "an initial split outside its bounds",
        PARTITION,
        {"initial": {"prefillPercent": 50, "decodePercent": 90}, "bounds": {"decodeMaxPercent": 80}},
        "got 90, allowed: 40..80, the bounds of decode",
        By.RULE,
        at=f"{INITIAL}.decodePercent",
    ),
    bad(
        "an autoscaler the wrong way round",
        "spec.autoscale",
        {"minReplicas": 3, "maxReplicas": 2},
        "got 3, allowed: at most maxReplicas, which is 2",
        By.RULE,
        at="spec.autoscale.minReplicas",
    ),
    bad(
        "a rollout that cannot move",
        "spec.rollout",
        {"maxSurge": 0},
        "got 0, allowed: 1 or more while maxSurge is 0: else no pod can be replaced",
        By.RULE,
        at="spec.rollout.maxUnavailable",
    ),
    Bad(
        id="replicas on every node",
        kind="SemiPDService",
        changes={"spec.placement": "EveryNode", "spec.replicas": 2},
        path="spec.replicas",
        words=f"got 2, {NODES_DECIDE}",
        by=By.RULE,
    ),
    Bad(
        id="an autoscaler on every node",
        kind="SemiPDService",
        changes={"spec.placement": "EveryNode", "spec.autoscale": {"maxReplicas": 5}},
        path="spec.autoscale.maxReplicas",
        words=f"got 5, {NODES_DECIDE}",
        by=By.RULE,
    ),
)
