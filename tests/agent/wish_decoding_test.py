"""What is a wish, and what is said of what is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from semipd_agent.wishes.decode import decode_wish
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Partition
from semipd_core.wishes import from_wire

TARGET = {"prefillPercent": 60, "decodePercent": 100}
BAND = {"prefillMinPercent": 40, "prefillMaxPercent": 80, "decodeMinPercent": 100, "decodeMaxPercent": 100}
WISH: dict[str, Any] = {"target": TARGET, "decisionId": "d-1"}


def test_a_wish_without_a_band_allows_its_target_alone() -> None:
    wish = from_wire(decode_wish(msgspec.json.encode(WISH)))
    assert wish.target == Partition(prefill_percent=60, decode_percent=100)
    assert wish.band == Band.only(wish.target)
    assert not wish.pinned


def test_a_wish_with_everything_is_taken_as_it_is() -> None:
    body = {**WISH, "band": BAND, "reason": "TPOTMissed", "message": "m", "pinned": True}
    wish = from_wire(decode_wish(msgspec.json.encode(body)))
    assert (wish.decision_id, wish.reason, wish.message, wish.pinned) == ("d-1", "TPOTMissed", "m", True)
    assert wish.band.prefill_max_percent == 80


@pytest.mark.parametrize(
    ("body", "path", "given", "allowed"),
    [
        pytest.param(b"{", "", "{", "a JSON object", id="no JSON"),
        pytest.param([], "", [], "a JSON object", id="a list"),
        pytest.param({}, "target", None, "required", id="no target"),
        pytest.param({"target": TARGET}, "decisionId", None, "required", id="no decision id"),
        pytest.param({**WISH, "decisionId": ""}, "decisionId", "", "non-empty", id="an empty decision id"),
        pytest.param(
            {**WISH, "share": 1}, "share", 1, "one of target, decisionId, band", id="an unknown key"
        ),
        pytest.param(
            {**WISH, "target": {**TARGET, "x": 1}},
            "target.x",
            1,
            "prefillPercent, decodePercent",
            id="an unknown key inside the target",
        ),
        pytest.param(
            {**WISH, "target": {"prefillPercent": 1}},
            "target.decodePercent",
            None,
            "required",
            id="half a target",
        ),
        pytest.param(
            {**WISH, "target": {**TARGET, "prefillPercent": 0}},
            "target.prefillPercent",
            0,
            "1..100",
            id="0 percent",
        ),
        pytest.param(
            {**WISH, "target": {**TARGET, "decodePercent": 101}},
            "target.decodePercent",
            101,
            "1..100",
            id="101 percent",
        ),
        pytest.param(
            {**WISH, "target": {**TARGET, "decodePercent": "50"}},
            "target.decodePercent",
            "50",
            "1..100",
            id="a percent as text",
        ),
        pytest.param(
            {**WISH, "target": {**TARGET, "decodePercent": 50.5}},
            "target.decodePercent",
            50.5,
            "1..100",
            id="half a percent",
        ),
        pytest.param(
            {**WISH, "target": {**TARGET, "decodePercent": True}},
            "target.decodePercent",
            True,
            "1..100",
            id="a boolean",
        ),
        pytest.param({**WISH, "pinned": "yes"}, "pinned", "yes", "bool", id="pinned as text"),
        pytest.param(
            {**WISH, "band": {**BAND, "prefillMinPercent": 90}},
            "band.prefillMinPercent",
            90,
            "at most band.prefillMaxPercent, which is 80",
            id="min above max",
        ),
        pytest.param(
            {**WISH, "band": {**BAND, "prefillMinPercent": 70}},
            "target.prefillPercent",
            60,
            "70..80, the band",
            id="a target outside its band",
        ),
        pytest.param(
            {**WISH, "band": {**BAND, "decodeMaxPercent": 200}},
            "band.decodeMaxPercent",
            200,
            "1..100",
            id="a band above 100",
        ),
        pytest.param(
            {**WISH, "band": {"prefillMinPercent": 40}},
            "band.prefillMaxPercent",
            None,
            "required",
            id="a band without its end",
        ),
    ],
)
def test_what_is_no_wish_is_explained(body: Any, path: str, given: object, allowed: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        decode_wish(body if isinstance(body, bytes) else msgspec.json.encode(body))
    assert (caught.value.path, caught.value.given) == (path, given)
    assert allowed in caught.value.allowed
