"""server.drain(): nobody new, and an end for each client at a time of its own."""

import asyncio
import math
import time
from contextlib import closing

import pytest
from raw_client import RawClient, handshake
from reference import CLOSE, TEXT, Frame
from support import client_of, connections, fall_behind, numbers, server_of, subscribed, until

from fastbcast import Disconnect, Hub, serve
from fastbcast.server.drain import TICK_SECONDS

REASON = "service restart; retry-after=0.0"
RESTARTED = Disconnect(1012, REASON, "server", "going_away")


async def answer_closes(raws):
    """Read each to its CLOSE, answer it, and return [(when, the frames before it, code, reason)]."""

    async def answer(raw):
        *frames, close = await raw.read_to_close()
        when = time.monotonic()
        await raw.send_frame(CLOSE, close.payload[:2])
        assert await raw.read_to_end() == []
        return when, frames, int.from_bytes(close.payload[:2], "big"), close.payload[2:].decode()

    return await asyncio.gather(*map(answer, raws))


async def test_clients_are_closed_one_after_the_other_and_told_when_to_come_back():
    hub = Hub()
    async with serve(hub) as server:
        raws = [await RawClient.connect(server.port, "/x") for _ in range(40)]
        await subscribed(hub, "x", 40)
        began = time.monotonic()
        draining = asyncio.create_task(server.drain(1.0))
        ends = await answer_closes(raws)
        await draining
        await server.wait_closed()
    assert {(code, reason) for _, _, code, reason in ends} == {(1012, "service restart; retry-after=1.0")}
    ticks = [(when - began) // TICK_SECONDS for when, _, _, _ in ends]
    assert len(set(ticks)) >= 5     # 20 on a machine with nothing else to do
    assert ticks != sorted(ticks)   # nor in the order in which they came


async def test_the_port_is_free_as_soon_as_it_begins():
    hub = Hub()
    async with serve(hub) as server:
        port = server.port
        with closing(await RawClient.connect(port)) as raw:
            draining = asyncio.create_task(server.drain(0.05))
            await asyncio.sleep(0)
            assert server.sockets == ()
            async with serve(Hub(), port=port):
                pass
            await answer_closes([raw])
            await draining


async def test_what_was_published_comes_before_the_close_even_to_a_slow_reader():
    hub = Hub()
    hub.configure("*", max_lag_bytes=2**30)
    async with connections(hub, "/x", "/y", receive_buffer_bytes=4096) as [(slow, behind), (other, _)]:
        count = await fall_behind(hub, "x", behind)
        hub.publish("y", "last")
        draining = asyncio.create_task(server_of(behind).drain(3600, retry_after=0))
        ((_, frames, _, _),) = await answer_closes([other])
        assert frames == [Frame(TEXT, b"last")]
        assert behind.is_open
        ((_, frames, code, _),) = await answer_closes([slow])
        assert code == 1012
        assert numbers(frame.payload for frame in frames) == [*range(1, count + 1)]
        await draining


async def test_who_is_behind_for_longer_is_closed_all_the_same():
    hub = Hub(close_seconds=0.1)
    async with connections(hub, "/x", receive_buffer_bytes=4096) as (_, behind):
        await fall_behind(hub, "x", behind)
        await server_of(behind).drain(0.1, retry_after=0)
        assert behind.disconnected == RESTARTED


async def test_a_handshake_under_way_is_finished_first():
    hub = Hub()
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as raw:
            request = handshake("/x")
            await raw.send(request[:30])
            await until(lambda: server.handshakes)
            draining = asyncio.create_task(server.drain(3600, retry_after=0))
            await asyncio.sleep(0)
            await raw.send(request[30:])
            assert (await raw.read_head()).startswith("HTTP/1.1 101 ")
            ((_, _, code, reason),) = await answer_closes([raw])
            assert (code, reason) == (1012, REASON)
            await draining


async def test_with_no_time_all_are_closed_at_once():
    hub = Hub()
    async with connections(hub, "/x", "/x") as pairs:
        draining = asyncio.create_task(server_of(pairs[0][1]).drain(0))
        ends = await answer_closes([raw for raw, _ in pairs])
        assert [end[2:] for end in ends] == [(1012, REASON)] * 2
        await draining


async def test_without_clients_it_does_not_wait():
    async with serve(Hub()) as server:
        await server.drain(3600)
        await server.wait_closed()
        await server.drain(3600)    # again: nothing


async def test_close_meanwhile_ends_it():
    hub = Hub()
    async with connections(hub, "/x", receive_buffer_bytes=4096) as (raw, behind):
        await fall_behind(hub, "x", behind)
        draining = asyncio.create_task(server_of(behind).drain(3600))
        await asyncio.sleep(0)
        closing_server = asyncio.create_task(server_of(behind).close())
        ((_, _, code, _),) = await answer_closes([raw])
        assert code == 1001
        await closing_server
        await draining


@pytest.mark.parametrize("over", [-1, math.inf, math.nan])
async def test_a_time_that_is_none_is_an_error_and_nothing_has_happened(over):
    hub = Hub()
    async with serve(hub) as server:
        with pytest.raises(ValueError, match="over must be a number of seconds"):
            await server.drain(over)
        with closing(await RawClient.connect(server.port, "/x")):
            await subscribed(hub, "x")
            assert client_of(hub, "x").is_open
