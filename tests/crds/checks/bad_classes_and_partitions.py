"""Classes and partitions that must be refused."""

from __future__ import annotations

from functools import partial

from bad_manifest import CHOICE, PATTERN, REQUIRED, By, bad
from changed_manifest import ABSENT

bad_class, bad_partition = partial(bad, kind="Class"), partial(bad, kind="Partition")
BAND = {"prefillMinPercent": 60, "prefillMaxPercent": 90, "decodeMinPercent": 100, "decodeMaxPercent": 100}
TARGET = {"prefillPercent": 80, "decodePercent": 100}

CLASSES = (
    bad_class("a class falls back to Auto", "spec.device", "Auto", CHOICE),
    bad_class("no isolation", "spec.allowedIsolations", [], "should have at least 1 items"),
    bad_class(
        "Auto is no isolation",
        "spec.allowedIsolations",
        ["MPS", "Auto"],
        CHOICE,
        at="spec.allowedIsolations[1]",
    ),
    bad_class("an isolation twice", "spec.allowedIsolations", ["MPS", "MPS"], "Duplicate value"),
    bad_class(
        "bounds the wrong way round",
        "spec.bounds",
        {"prefillMinPercent": 90, "prefillMaxPercent": 80},
        "got 90, allowed: at most prefillMaxPercent, which is 80",
        By.RULE,
        at="spec.bounds.prefillMinPercent",
    ),
    bad_class(
        "a decode minimum above its maximum",
        "spec.bounds",
        {"decodeMinPercent": 100, "decodeMaxPercent": 99},
        "got 100, allowed: at most decodeMaxPercent, which is 99",
        By.RULE,
        at="spec.bounds.decodeMinPercent",
    ),
    bad_class("no switch at all", "spec.maxSwitchesPerHour", 0, "should be greater than or equal to 1"),
    bad_class("a debt of GPUs", "spec.gpuBudget", -1, "should be greater than or equal to 0"),
    bad_class("an empty image", "spec.image", "", "should be at least 1 chars long"),
    bad_class(
        "a space in a label's value",
        "spec.nodeSelector",
        {"gpu": "h 200"},
        PATTERN,
        at="spec.nodeSelector.gpu",
    ),
    bad_class(
        "a label's name that ends in a dot",
        "spec.nodeSelector",
        {"gpu.": "h200"},
        "got 'gpu.', allowed: a label key",
        By.RULE,
    ),
    bad_class("an underscore", "spec.runtimeClassName", "n_v", PATTERN),
    bad_class("a misspelt key", "spec.alowedIsolations", ["MPS"], "unknown field", By.STRICT),
)

PARTITIONS = (
    bad_partition("no target", "spec.target", ABSENT, REQUIRED),
    bad_partition("no decision", "spec.decisionID", ABSENT, REQUIRED),
    bad_partition("a decision without name", "spec.decisionID", "", "should be at least 1 chars long"),
    bad_partition("an initialism in lower case", "spec.decisionId", "7", "unknown field", By.STRICT),
    bad_partition(
        "half a band", "spec.band", {"prefillMinPercent": 60}, REQUIRED, at="spec.band.prefillMaxPercent"
    ),
    bad_partition(
        "a share of 0",
        "spec.target",
        TARGET | {"prefillPercent": 0},
        "should be greater than or equal to 1",
        at="spec.target.prefillPercent",
    ),
    bad_partition(
        "a prefill band the wrong way round",
        "spec.band",
        BAND | {"prefillMinPercent": 91},
        "got 91, allowed: at most prefillMaxPercent, which is 90",
        By.RULE,
        at="spec.band.prefillMinPercent",
    ),
    bad_partition(
        "a decode band the wrong way round",
        "spec.band",
        BAND | {"decodeMaxPercent": 99},
        "got 100, allowed: at most decodeMaxPercent, which is 99",
        By.RULE,
        at="spec.band.decodeMinPercent",
    ),
    bad_partition(
        "prefill outside its band",
        "spec.band",
        BAND | {"prefillMaxPercent": 70},
        "got 80, allowed: 60..70, the band of prefill",
        By.RULE,
        at="spec.target.prefillPercent",
    ),
    bad_partition(
        "decode outside its band",
        "spec.band",
        BAND | {"decodeMinPercent": 40, "decodeMaxPercent": 60},
        "got 100, allowed: 40..60, the band of decode",
        By.RULE,
        at="spec.target.decodePercent",
    ),
)
