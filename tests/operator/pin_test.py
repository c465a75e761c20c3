"""The pin by annotation: a legal split within the bounds that the class leaves, or what is wrong with it."""

from __future__ import annotations

import pytest
from fleet_objects import observed, service, service_class

from semipd_core.partition import Partition
from semipd_operator.plan.plan import Installation, admit

INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")


def at(prefill: int, decode: int = 100) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=decode)


@pytest.mark.parametrize(
    ("given", "split", "said"),
    [
        pytest.param(None, None, None, id="no pin"),
        pytest.param("70/60", at(70, 60), None, id="a split"),
        pytest.param(" 70 / 60 ", at(70, 60), None, id="with blanks"),
        pytest.param("70", None, "'70'", id="one number"),
        pytest.param("70/60/50", None, "70/60/50", id="three numbers"),
        pytest.param("seventy/60", None, "seventy", id="words"),
        pytest.param("\u0667\u0660/60", None, "allowed", id="digits of another script"),
        pytest.param("73/60", None, "multiples of 5", id="finer than a step"),
        pytest.param("20/60", None, "prefill 40..100", id="under the bounds"),
        pytest.param("70/20", None, "decode 40..90", id="under the class's cut"),
        pytest.param("70/95", None, "decode 40..90", id="over the class's cut"),
    ],
)
def test_a_pin_is_a_legal_split_or_says_what_is(
    given: str | None, split: Partition | None, said: str | None
) -> None:
    annotations = {} if given is None else {"semipd.io/pinned-split": given}
    spec = {"partition": {"bounds": {"prefillMinPercent": 40}}}
    found = observed(service=service(replicas=1, annotations=annotations, **spec))
    cls = service_class(default=True, bounds={"decodeMaxPercent": 90})
    pin = admit(found, [cls], INSTALLATION, 0).pin
    assert pin.split == split
    assert (pin.defect is None) is (said is None)
    if said is not None:
        assert said in str(pin.defect)
