"""Clients that do not read: what waits for them, when they are evicted, and that the others see none of it."""

import asyncio
import os
import socket

import pytest
from raw_client import RawClient, serving
from reference import BINARY, CLOSE, PING, PONG, TEXT, encode_frame
from support import (
    POLICIES,
    SMALL_BUFFERS,
    check,
    client_of,
    connections,
    fall_behind,
    numbered,
    numbers,
    read_some,
    stall,
    until,
)

import fastbcast

KIB = 1024


# A socket that is full.


async def test_a_frame_that_is_refused_whole_goes_out_once_the_client_reads_again():
    """The Transport must hold something, or no write event is armed: nothing else happens on this channel."""

    hub = fastbcast.Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        published = 0
        while hub.stats()["refused_sends"] == 0:
            hub.publish("x", b"%06d" % published)
            published += 1
            await asyncio.sleep(0)
        assert await client.read_payloads(published) == [b"%06d" % i for i in range(published)]


async def test_a_stalled_client_gets_everything_once_it_reads_again_even_on_an_idle_channel():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        published = await stall(hub, "x")
        for i in range(5):
            published.append(b"more%d" % i)
            hub.publish("x", published[-1])
        await asyncio.sleep(0)
        check(hub)
        assert await client.read_payloads(len(published)) == published
        await until(lambda: hub.stats()["log_bytes"] <= KIB)
        check(hub)


async def test_a_frame_larger_than_the_socket_takes_is_finished_by_the_transport():
    hub = fastbcast.Hub(max_message_bytes=8 * 1024 * KIB)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=128 * KIB)
        big = os.urandom(5 * 1024 * KIB)
        hub.publish("x", big)
        hub.publish("x", b"small")
        assert await client.read_payloads(2) == [big, b"small"]


async def test_a_client_blocked_on_one_channel_gets_nothing_of_another_into_the_middle_of_a_frame():
    hub = fastbcast.Hub()

    @hub.on_connect
    def _(client):
        client.subscribe("other")

    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        witness = await RawClient.connect(server.port, "/other")
        published = await stall(hub, "x", 100 * KIB)
        # The peer takes some bytes, so that the kernel would now accept a frame: into the middle of another.
        await client.receive(30 * KIB)
        hub.publish("other", b"o" * 200)
        assert await witness.read_payloads(1) == [b"o" * 200]
        payloads = await client.read_payloads(len(published) + 1)
        assert sorted(payloads) == sorted([*published, b"o" * 200])
        assert [payload for payload in payloads if payload != b"o" * 200] == published


async def test_pongs_direct_messages_and_close_come_at_frame_boundaries():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        published = await stall(hub, "x", 100 * KIB)
        await client.send_frame(PING, b"are you there")
        await client.send_frame(PING, b"and now")
        assert client_of(hub, "x").send("direct") is True
        await until(lambda: hub.stats()["clients"] == 1)
        payloads = [frame.payload for frame in await client.read_frames(len(published) + 2)]
        assert b"direct" in payloads
        assert [payload for payload in payloads if len(payload) > 100] == published
        client_of(hub, "x").close(4000, "done")
        frames = await client.read_frames(1)
        assert frames[0].payload in (b"are you there", b"and now") or frames[0].opcode == CLOSE


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_busy_channel_does_not_keep_a_quiet_one_from_a_slow_client(policy):
    """Whenever the socket has room again the busy one could fill it."""

    hub = fastbcast.Hub()
    hub.configure("*", policy=policy, max_lag_bytes=10**8)
    async with connections(hub, "/busy", **SMALL_BUFFERS) as (raw, client):
        client.subscribe("quiet")
        number = await fall_behind(hub, "busy", client)
        hub.publish("quiet", b"quiet")
        payloads = []
        while b"quiet" not in payloads:
            assert len(payloads) < 20   # what was in the socket, and then a turn for each
            for _ in range(4):
                number += 1
                hub.publish("busy", numbered(number), key=number)
            payloads += await raw.read_payloads(1)
        while client.lag.messages:
            payloads += await raw.read_payloads(1)
        assert numbers(payload for payload in payloads if payload != b"quiet") == [*range(1, len(payloads))]


async def test_of_many_pings_while_blocked_only_the_latest_is_answered():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        published = await stall(hub, "x", 100 * KIB)
        for i in range(2000):
            await client.send_frame(PING, b"%04d" % i)
        await client.send_frame(TEXT, b"after the pings")
        await until(lambda: hub.stats()["received_messages"] == 1)
        frames = await client.read_frames(len(published) + 1)
        assert [frame.payload for frame in frames if frame.opcode == BINARY] == published
        assert [frame.payload for frame in frames if frame.opcode == PONG] == [b"1999"]


async def test_a_direct_message_follows_what_was_published_before_it():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x")
        for i in range(50):
            hub.publish("x", b"p%d" % i)
            client_of(hub, "x").send(b"d%d" % i)
        expected = [b"%c%d" % (kind, i) for i in range(50) for kind in b"pd"]
        assert await client.read_payloads(100) == expected


# Slow consumers.


async def test_a_client_that_never_reads_is_evicted_and_the_others_get_everything():
    hub = fastbcast.Hub(close_seconds=0.2)
    hub.configure("x", max_lag_bytes=256 * KIB)
    ends = []
    hub.on_disconnect(lambda client, disconnect: ends.append(disconnect))
    async with serving(hub) as server:
        healthy = await RawClient.connect(server.port, "/x")
        stalled = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        count = 300
        reading = asyncio.ensure_future(healthy.read_payloads(count))
        largest_log = 0
        for i in range(count):
            hub.publish("x", i.to_bytes(4, "big") * (4 * KIB))
            await hub.flushed(timeout=0.001)
            largest_log = max(largest_log, hub.stats()["log_bytes"])
        assert await reading == [i.to_bytes(4, "big") * (4 * KIB) for i in range(count)]
        await until(lambda: ends)
        assert ends == [fastbcast.Disconnect(1013, "slow consumer", "server", "slow_consumer")]
        assert hub.stats()["disconnects"] == {"slow_consumer": 1}
        assert largest_log < 256 * KIB + 200 * KIB
        # It finished its frame before the CLOSE, if it got one at all.
        code, _ = await stalled.read_close()
        assert code in (1013, None)


async def test_an_evicted_client_that_reads_again_finds_the_close():
    hub = fastbcast.Hub()
    hub.configure("x", max_lag_bytes=64 * KIB, max_burst_bytes=0)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        await stall(hub, "x")
        for _ in range(10):
            hub.publish("x", b"z" * 16 * KIB)
            await asyncio.sleep(0)
        await until(lambda: not client_of(hub, "x").is_open)
        frames = await client.read_to_close()
        assert frames[-1].payload == (1013).to_bytes(2, "big") + b"slow consumer"


async def test_a_burst_far_above_the_limit_evicts_nobody_who_reads():
    hub = fastbcast.Hub()
    hub.configure("x", max_lag_bytes=128 * KIB)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=16 * KIB)
        messages = [bytes([i]) * 64 * KIB for i in range(100)]  # 6.4 MB in one turn
        for message in messages:
            hub.publish("x", message)
        assert hub.stats()["inline_sweeps"] > 0
        assert await client.read_payloads(100) == messages
        assert hub.stats()["disconnects"] == {}


async def test_even_a_burst_is_bounded():
    hub = fastbcast.Hub(close_seconds=0.1)
    hub.configure("x", max_lag_bytes=64 * KIB, max_burst_bytes=512 * KIB, max_unswept_bytes=128 * KIB)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        largest = 0
        for _ in range(400):  # 6.4 MB, and control never comes back to the loop
            hub.publish("x", b"z" * 16 * KIB)
            largest = max(largest, hub.stats()["log_bytes"])
        # Frames do not straddle segments: of 64 KiB three frames of 16 KiB use 48.
        assert largest < (64 + 512 + 128 + 2 * 16) * KIB * 64 / 48
        assert not hub.channel("x").subscribers
        client.close()


async def test_direct_messages_to_a_stalled_client_are_bounded():
    hub = fastbcast.Hub(max_direct_bytes=100 * KIB)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        await stall(hub, "x", 200 * KIB)
        results = [client_of(hub, "x").send(b"d" * 10 * KIB) for _ in range(12)]
        assert results == [True] * 9 + [False] * 3
        frames = await client.read_to_close()
        assert frames[-1].payload[:2] == (1013).to_bytes(2, "big")


async def test_a_client_whose_connection_is_gone_does_not_hold_back_the_log():
    """Its slot leaves when a send fails: the callback that tells of the lost connection needs a turn."""

    hub = fastbcast.Hub()
    hub.configure("x", max_lag_bytes=64 * KIB, max_burst_bytes=512 * KIB, max_unswept_bytes=128 * KIB)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x")
        witness = await RawClient.connect(server.port, "/x")
        client_of(hub, "x")._pause_reading()
        client.reset()
        witness.reset()
        largest = 0
        for _ in range(400):  # 6.4 MB, and control never comes back to the loop
            hub.publish("x", b"z" * 16 * KIB)
            largest = max(largest, hub.stats()["log_bytes"])
        assert largest < 512 * KIB


async def test_a_client_that_has_caught_up_through_its_transport_has_its_burst_again():
    hub = fastbcast.Hub(max_message_bytes=4 * 1024 * KIB)
    hub.configure("x", max_lag_bytes=64 * KIB)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        for _ in range(2):
            # Two frames: refused at the first, judged in the next turn, caught up by the Transport alone.
            hub.publish("x", b"1" * 1024 * KIB)
            await asyncio.sleep(0)
            hub.publish("x", b"2")
            hub.publish("x", b"3" * 600 * KIB)
            assert len(await client.read_payloads(3)) == 3
            assert (await hub.flushed()).written == 1
        assert hub.stats()["disconnects"] == {}


async def test_those_that_catch_up_all_at_once_have_their_burst_again():
    """More than a slice can serve: rounds serve the others. What they get then must not be held against them later."""

    hub = fastbcast.Hub(slice_seconds=0.0001)
    hub.configure("x", max_lag_bytes=200_000)
    async with connections(hub, *["/x"] * 60, receive_buffer_bytes=100_000) as pairs:
        clients = [client for _, client in pairs]

        async def drain():
            while any(client.lag.bytes for client in clients):
                for raw, _ in pairs:
                    while read_some(raw, 1 << 20):
                        raw.data = b""
                await asyncio.sleep(0)

        hub.publish("x", bytes(1_000_000))
        await until(lambda: all(client.is_writing_paused for client in clients))
        for _ in range(2):
            hub.publish("x", b"small")  # now they are judged
            await asyncio.sleep(0)
        await drain()
        for _ in range(60):
            hub.publish("x", bytes(50_000))
        await drain()
        await asyncio.sleep(0)
        assert all(client.is_open for client in clients)


async def test_a_peer_that_closes_its_side_and_never_reads_has_a_deadline():
    hub = fastbcast.Hub(close_seconds=0.1)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        await stall(hub, "x")
        client.sock.shutdown(socket.SHUT_WR)
        await until(lambda: hub.stats()["clients"] == 0)
        assert hub.stats()["disconnects"] == {"connection_lost": 1}
        assert hub.stats()["subscriptions"] == 0


async def test_a_flood_of_tiny_frames_is_handled_in_portions():
    """A megabyte of them in one turn would keep everybody else waiting."""

    hub = fastbcast.Hub()
    async with serving(hub) as server:
        flooder = await RawClient.connect(server.port, "/x")
        await flooder.send_frame(BINARY, b"b" * 900 * KIB)
        count = 100_000
        flood = asyncio.ensure_future(flooder.send(encode_frame(TEXT, b"", mask=b"mask") * count))
        largest = before = 0
        while before <= count:
            await asyncio.sleep(0)
            received = hub.stats()["received_messages"]
            largest, before = max(largest, received - before), received
        await flood
        # A read of 64 KiB holds 10,922 of 6 bytes; what follows it in a turn is read in portions of 4 KiB.
        assert largest < 12_000
