from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semipd_core import messages
from semipd_shell import channel

TOKENS = messages.Tokens(request_id="a", offset=0, tokens=[1, 2], logprobs=None, finish=None, cached_tokens=0)


def pair() -> tuple[channel.Channel, channel.Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return channel.Channel(one), channel.Channel(other)


def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = pair()
    big = messages.Submit(
        request_id="b",
        prompt=list(range(30_000)),
        max_tokens=1,
        arrived_ns=1,
        sampling=messages.Sampling(),
        stop_token_ids=[],
    )
    ours.send(TOKENS)
    ours.send(big)
    assert theirs.receive() == TOKENS
    assert theirs.receive() == big


def test_the_end_of_a_peer_is_an_end_of_file() -> None:
    ours, theirs = pair()
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive()
    with pytest.raises(OSError, match=r"Broken pipe"):
        ours.send(TOKENS)


def test_a_peer_killed_inside_a_message_is_an_end_of_file() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours = channel.Channel(one)
    other.sendall(b"\x00\x00\x01\x00half")
    other.close()
    with pytest.raises(EOFError):
        ours.receive()


def test_a_peer_that_reads_nothing_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SEND_TIMEOUT_S", 1.0)
    ours, _theirs = pair()
    with pytest.raises(OSError, match=r"temporarily unavailable"):
        for _ in range(100_000):
            ours.send(TOKENS)


async def test_the_asyncio_side_speaks_the_same_frames(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = channel.listen(path)
    ours = await channel.connect_async(path)
    theirs = channel.Channel(listener.accept()[0])
    await ours.send(TOKENS)
    assert theirs.receive() == TOKENS
    theirs.send(TOKENS)
    assert await asyncio.wait_for(ours.receive(), 5) == TOKENS
    theirs.close()
    with pytest.raises(EOFError):
        await ours.receive()
    await ours.close()
    listener.close()


def test_listen_takes_the_place_of_a_dead_process(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    channel.listen(path).close()
    listener = channel.listen(path)
    channel.connect(path).close()
    listener.close()


@given(data=st.binary(max_size=64))
@example(data=b"\x91\xa1\x80")
def test_unreadable_bytes_are_a_validation_error_never_another(data: bytes) -> None:
    try:
        messages.decode(data)
    except msgspec.ValidationError:
        return
