"""Agents that answer, refuse, hang and talk nonsense, over real sockets."""

import asyncio
import contextlib
import itertools
import time

import msgspec
import pytest
from aiohttp import web

from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets, WindowSlot
from semipd_operator.observe import scrape
from semipd_operator.observe.scrape import Scraper, open_client
from semipd_shell.informer import Key

REPORT = EngineReport(
    engine_id="engine-0",
    at_s=1.0,
    phase="Steady",
    requested=(80, 100),
    granted=(80, 100),
    front_end=None,
    coordinator=None,
)
BODY = msgspec.json.encode([REPORT])
BUCKET = FrontEndReport(
    at_s=1.0,
    ready=True,
    slo=SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60),
    open_requests=0,
    queued_requests=0,
    slots=[WindowSlot(start_s=0, completed=1, ttft_ms={10**7: 1})],
)
WELL, HANGS, ILL, NONSENSE, HUGE = (f"127.0.0.{number}" for number in range(2, 7))
NOBODY = "127.0.0.99"


async def answer(request):
    address = request.transport.get_extra_info("sockname")[0]
    if address == HANGS:
        await asyncio.Event().wait()
    if address == ILL:
        return web.Response(status=503)
    if address == HUGE:
        return web.Response(body=b" " * (scrape.MAX_BYTES + 1))
    return web.Response(body=b"[{}]" if address == NONSENSE else BODY)


@contextlib.asynccontextmanager
async def agents():
    """The port that all of them listen on."""
    app = web.Application()
    app.router.add_get("/v1/windows", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    first = web.TCPSite(runner, WELL, 0)
    await first.start()
    port = runner.addresses[0][1]
    for address in (HANGS, ILL, NONSENSE, HUGE):
        await web.TCPSite(runner, address, port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def scrape_all(services, deadline_s=10.0):
    """In the order in which services are handed on."""
    async with agents() as port, open_client() as client:
        return [each async for each in Scraper(client, port).scrape(services, deadline_s)]


def service(name, *addresses):
    return {Key("team-a", name): {f"{name}-{number}": address for number, address in enumerate(addresses)}}


@pytest.mark.parametrize("address", [ILL, NONSENSE, HUGE, NOBODY])
async def test_who_does_not_answer_well_is_left_out(address):
    [(key, reports)] = await scrape_all(service("chat", WELL, address))
    assert key == Key("team-a", "chat")
    assert list(reports) == ["chat-0"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"requested": (0, 0), "granted": (0, 0)}, id="no split"),
        pytest.param({"granted": (101, 100)}, id="more than the device"),
        pytest.param({"front_end": BUCKET}, id="a latency that is no float"),
    ],
)
def test_what_is_out_of_range_is_no_report(changes):
    body = msgspec.json.encode([REPORT, msgspec.structs.replace(REPORT, **changes)])
    assert scrape._read_reports(body, "chat-0") is None
    assert scrape._read_reports(BODY, "chat-0")


async def test_engines_carry_the_name_of_their_pod():
    [(_, reports)] = await scrape_all(service("chat", WELL))
    assert reports["chat-0"][0].engine_id == "chat-0/engine-0"


async def test_reports_of_a_node_whose_clock_is_behind_come_in_our_time():
    """To the operator, whose clock is an hour ahead of what the agent's Date says."""
    async with agents() as port, open_client() as client:
        scraper = Scraper(client, port, now_s=lambda: time.time() + 3600)
        [(_, reports)] = [each async for each in scraper.scrape(service("chat", WELL), 10.0)]
    assert reports["chat-0"][0].at_s - REPORT.at_s == pytest.approx(3600, abs=60)


async def test_a_service_without_pods_is_handed_on_too():
    assert await scrape_all(service("empty")) == [(Key("team-a", "empty"), {})]


async def test_a_service_does_not_wait_for_another_one_that_hangs():
    found = await scrape_all(service("slow", HANGS) | service("chat", WELL))
    assert [key.name for key, _ in found] == ["chat", "slow"]


async def test_those_that_are_late_at_the_deadline_are_handed_on_without_reports():
    found = dict(await scrape_all(service("slow", HANGS, WELL) | service("chat", WELL), deadline_s=2.0))
    assert list(found[Key("team-a", "chat")]) == ["chat-0"]
    assert list(found[Key("team-a", "slow")]) == ["slow-1"]


async def test_agents_that_hang_do_not_keep_those_behind_them_from_being_asked(monkeypatch):
    monkeypatch.setattr(scrape, "CONCURRENCY", 2)
    hanging = service("slow", *itertools.repeat(HANGS, 8))
    started_s = time.monotonic()
    async with agents() as port, open_client() as client:
        async for key, reports in Scraper(client, port).scrape(hanging | service("chat", WELL), 60.0):
            if key.name == "chat":
                assert list(reports) == ["chat-0"]
                break
    assert time.monotonic() - started_s < scrape.AGENT_TIMEOUT_S * 8 / 2


class CountedScraper(Scraper):
    """Whose agents answer at once, but for those at NOBODY, who never do."""

    asked = 0

    async def _fetch(self, address, slots):
        self.asked += 1
        await asyncio.sleep(0)
        slots.release()
        if address == NOBODY:
            await asyncio.Event().wait()
        return BODY, 0


async def test_nobody_is_asked_while_answers_wait_to_be_worked_with(monkeypatch):
    monkeypatch.setattr(scrape, "CONCURRENCY", 4)
    monkeypatch.setattr(scrape, "BACKLOG", 4)
    services = {key: pods for number in range(64) for key, pods in service(f"chat-{number}", WELL).items()}
    scraper, ahead = CountedScraper(None), []
    handed_on = 0
    async for _, reports in scraper.scrape(services, 60.0):
        for _ in range(10):  # others' turns: time enough to be asked
            await asyncio.sleep(0)
        assert len(reports) == 1
        handed_on += 1
        ahead.append(scraper.asked - handed_on)
    assert handed_on == 64
    assert 1 <= max(ahead) <= scrape.BACKLOG + scrape.CONCURRENCY


async def test_who_was_not_asked_in_time_is_left_out_and_who_was_asked_and_is_silent_is_not(monkeypatch):
    monkeypatch.setattr(scrape, "CONCURRENCY", 1)
    monkeypatch.setattr(scrape, "BACKLOG", 1)
    services = service("silent", NOBODY)
    for name in ("first", "second", "third", "fourth"):
        services |= service(name, WELL)
    found = {}
    async for key, reports in CountedScraper(None).scrape(services, 0.2):
        found[key.name] = list(reports)
        await asyncio.sleep(0.3)
    assert found.pop("silent") == []
    assert found["first"] == ["first-0"]
    assert "fourth" not in found
    assert all(found.values())
