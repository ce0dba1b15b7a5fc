"""A handler blocks the event loop for longer than a deadline: what arrived meanwhile is read before anybody is judged.

`block` is such a handler; what a client did "meanwhile" lies in its socket, or is read from it, when that begins.
"""

import asyncio
import contextlib
import socket
import time
from contextlib import closing

import pytest
from raw_client import RawClient, handshake, serving
from reference import CLOSE, PING, PONG, Frame, close_payload
from support import SMALL_BUFFERS, connections, end_turn, fall_behind, numbered, numbers, server_of, until

from fastbcast import Flushed, Hub

LIMIT = 0.25
KIB = 1024


def block(limits=3):
    """What a handler does that takes long, from the loop's point of view."""
    time.sleep(limits * LIMIT)


async def block_again_and_again(is_over):
    """Every turn of the loop but some is far too late."""
    while not is_over():
        block(1)
        await asyncio.sleep(LIMIT / 50)


def block_while_it_reads(raw):
    """The same while `raw` takes all that the kernel has for it."""
    end = time.monotonic() + 3 * LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            raw.take(raw.sock.recv(65536))


async def begin_handshake(server):
    """Connect and send a half of the head; return the client and the other half."""
    raw = await RawClient.connect_tcp(server.port)
    request = handshake()
    await raw.send(request[:20])
    await until(lambda: server.stats()["handshakes"] == 1)
    return raw, request[20:]


def waiting_hook(hub):
    """Give `hub` an authorize hook that waits for a byte of another service; return that one's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    entered = asyncio.Event()

    @hub.authorize
    async def _(request):
        entered.set()
        with ours:
            await asyncio.get_running_loop().sock_recv(ours, 1)

    return theirs, entered


# Before the 101.


async def test_a_head_that_waits_in_the_socket_is_read_before_it_is_late():
    async with serving(Hub(), handshake_seconds=LIMIT) as server:
        raw, rest = await begin_handshake(server)
        with closing(raw):
            raw.send_now(rest)
            block()
            assert (await raw.read_head()).startswith("HTTP/1.1 101 ")


async def test_a_tls_handshake_that_needs_more_round_trips_goes_on(tls):
    async with serving(Hub(), handshake_seconds=3 * LIMIT) as server:
        accepted = asyncio.create_task(until(lambda: server.stats()["handshakes"] == 1))
        connecting = asyncio.create_task(RawClient.connect(server.port))
        await accepted
        block()
        with closing(await connecting) as raw:
            assert raw.head.startswith("HTTP/1.1 101 ")


async def test_the_answer_that_an_authorize_hook_waits_for_is_read_before_the_hook_is_late():
    hub = Hub()
    service, entered = waiting_hook(hub)
    async with serving(hub, authorize_seconds=LIMIT) as server:
        with service, closing(await RawClient.connect_tcp(server.port)) as raw:
            await raw.send(handshake())
            await entered.wait()
            service.send(b"y")
            block()
            assert (await raw.read_head()).startswith("HTTP/1.1 101 ")


# Clients that are behind.


def make_hub(**options):
    """A hub whose channels have no limit but those that a test sets."""
    hub = Hub(**options)
    hub.configure("*", max_lag_bytes=10**9)
    return hub


async def test_a_client_that_has_read_everything_has_not_stalled():
    hub = make_hub(stall_seconds=LIMIT)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        block_while_it_reads(raw)
        assert numbers(await raw.read_payloads(count)) == [*range(1, count + 1)]
        assert client.is_open


async def test_a_client_that_has_read_everything_has_not_been_above_the_soft_limit():
    hub = make_hub()
    hub.configure("x", max_lag_bytes=10**9, soft_lag_bytes=10 * KIB, soft_lag_seconds=LIMIT)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 6):  # it is above the limit from here on
            hub.publish("x", numbered(number))
            await end_turn()
        block_while_it_reads(raw)
        hub.publish("x", numbered(count + 6))
        assert numbers(await raw.read_payloads(count + 6)) == [*range(1, count + 7)]
        assert client.is_open


async def test_a_client_that_has_room_by_now_is_not_evicted_for_what_is_published_at_once():
    hub = Hub()
    hub.configure("*", max_lag_bytes=100 * KIB, soft_lag_seconds=3600)
    async with connections(hub, "/x", notsent_lowat_bytes=0) as (raw, client):
        count = await fall_behind(hub, "x", client)
        hub.publish("x", numbered(count + 1))   # from here on its lag counts
        await end_turn()
        block_while_it_reads(raw)
        for number in range(count + 2, count + 32):
            hub.publish("x", numbered(number))
        assert numbers(await raw.read_payloads(count + 31)) == [*range(1, count + 32)]
        assert client.is_open


async def test_time_in_which_the_loop_was_blocked_is_no_time_above_the_soft_limit():
    hub = make_hub()
    hub.configure("x", max_lag_bytes=10**9, soft_lag_bytes=10 * KIB, soft_lag_seconds=8 * LIMIT)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 6):
            hub.publish("x", numbered(number))
            await end_turn()
        block(10)   # it reads nothing all the time, and has no room behind it
        for number in range(count + 6, count + 11):
            hub.publish("x", numbered(number))
            await end_turn()
        assert client.is_open


async def test_flushed_counts_who_has_room_by_now_before_its_time_is_up():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        await fall_behind(hub, "x", client)
        flushing = asyncio.create_task(hub.flushed(timeout=LIMIT))
        await end_turn()
        block_while_it_reads(raw)
        assert await flushing == Flushed(written=1)


# Clients that are silent, and ends.


async def test_a_pong_that_waits_in_the_socket_is_read_before_its_client_is_given_up():
    hub = Hub()
    async with serving(hub, ping_seconds=LIMIT, pong_seconds=LIMIT) as server:
        with closing(await RawClient.connect(server.port)) as raw:
            for _ in range(3):
                assert await raw.read_frames(1) == [Frame(PING, b"")]
                await raw.send_frame(PONG)
                block()
            assert (await raw.read_frames(1))[0].opcode == PING


async def test_a_closing_handshake_goes_on_where_the_peer_has_read_what_came_before():
    hub = make_hub(close_seconds=LIMIT)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        await fall_behind(hub, "x", client)
        client.close(4000, "enough")
        block_while_it_reads(raw)
        *_, close = await raw.read_to_close()
        assert close.payload == close_payload(4000, "enough")


async def test_a_drain_closes_nobody_at_its_end_who_has_room_by_now():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 31):
            hub.publish("x", numbered(number))
            await end_turn()
        draining = asyncio.create_task(server_of(client).drain(LIMIT, retry_after=0))
        await until(lambda: not server_of(client).sockets)
        block_while_it_reads(raw)
        frames = await raw.read_to_close()
        await raw.send_frame(CLOSE, close_payload(1012))
        assert numbers(frame.payload for frame in frames[:-1]) == [*range(1, count + 31)]
        assert frames[-1].payload[:2] == close_payload(1012)
        await draining


async def test_a_handler_whose_answer_waits_in_a_socket_is_not_cancelled_at_the_end():
    hub = Hub(close_seconds=LIMIT)
    ours, service = socket.socketpair()
    ours.setblocking(False)
    log = []

    @hub.on_message
    async def _(client, message):
        log.append("at work")
        with ours:
            await asyncio.get_running_loop().sock_recv(ours, 1)
        log.append("done")

    with service:
        async with connections(hub, "/x") as (raw, client):
            await raw.send_frame(1, b"work")
            await until(lambda: log)
            raw.reset()
            await until(lambda: not hub.stats()["clients"])
            closing_server = asyncio.create_task(server_of(client).close())
            await asyncio.sleep(LIMIT / 10)
            service.send(b"y")
            block()
            await closing_server
            assert log == ["at work", "done"]


# Nobody stays for ever for it.


async def test_a_head_that_does_not_come_is_late_though_the_loop_is_blocked_again_and_again():
    async with serving(Hub(), handshake_seconds=LIMIT) as server:
        raw, _ = await begin_handshake(server)
        with closing(raw):
            await block_again_and_again(lambda: server.stats()["refused"])
            assert (await raw.read_head()).startswith("HTTP/1.1 408 ")


@pytest.mark.parametrize("policy", ["evict", "skip"])
async def test_a_client_that_takes_nothing_is_evicted_though_the_loop_is_blocked_again_and_again(policy):
    hub = make_hub(stall_seconds=LIMIT, close_seconds=LIMIT)
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        await fall_behind(hub, "x", client)
        await block_again_and_again(lambda: hub.stats()["disconnects"])
        assert hub.stats()["disconnects"] == {"stalled": 1}


async def test_a_client_that_stays_above_the_soft_limit_is_evicted_though_the_loop_is_blocked_again_and_again():
    hub = make_hub()
    hub.configure("x", max_lag_bytes=10**9, soft_lag_bytes=10 * KIB, soft_lag_seconds=LIMIT)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 6):
            hub.publish("x", numbered(number))
            await end_turn()
        await block_again_and_again(lambda: not client.is_open)
        assert client.disconnected.cause == "slow_consumer"


async def test_a_client_that_is_silent_is_given_up_though_the_loop_is_blocked_again_and_again():
    hub = Hub(close_seconds=LIMIT)
    async with serving(hub, ping_seconds=LIMIT, pong_seconds=LIMIT) as server:
        with closing(await RawClient.connect(server.port)):
            await block_again_and_again(lambda: hub.stats()["disconnects"])
            assert hub.stats()["disconnects"] == {"keepalive": 1}
