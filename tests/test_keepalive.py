"""Keepalive: who is silent is pinged, who stays silent is closed, and who is heard of or blocked is left alone.

Where something must not happen, another client that is pinged stands by as the clock.
"""

import asyncio
from contextlib import closing

import pytest
from raw_client import RawClient, serving
from reference import CLOSE, PING, PONG, TEXT, Frame, client_frame
from support import SMALL_BUFFERS, client_of, fill, subscribed, until
from websockets.asyncio.client import connect

from fastbcast import Hub, serve
from fastbcast.connection.keepalive import MAX_BUCKETS, Keepalive

SOON = {"ping_seconds": 0.05, "pong_seconds": 0.05}
PATIENT = {"ping_seconds": 0.05, "pong_seconds": 600}


async def answer_pings(client, count):
    """Answer so many pings; nothing else may arrive."""
    for _ in range(count):
        assert await client.read_frames(1) == [Frame(PING, b"")]
        await client.send_frame(PONG)


async def watch_the_clock(server, count=5):
    """Wait until a client that is silent has been pinged `count` times."""
    with closing(await RawClient.connect(server.port, "/clock")) as clock:
        await answer_pings(clock, count)


async def test_a_silent_client_is_pinged_again_and_again_and_stays():
    hub = Hub()
    async with serving(hub, **PATIENT) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await answer_pings(client, 3)
            hub.publish("default", "still here")
            assert await client.read_payloads(1) == [b"still here"]
            assert hub.stats()["pings"] >= 3


async def test_a_client_that_answers_nothing_is_closed_with_1011():
    hub = Hub()
    ended = []
    hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
    async with serving(hub, **SOON) as server:
        with closing(await RawClient.connect(server.port)) as client:
            first, *rest = await client.read_to_close()
            assert first == Frame(PING, b"")
            assert [frame.opcode for frame in rest] == [CLOSE]
            assert rest[0].payload == (1011).to_bytes(2, "big") + b"keepalive ping timeout"
        await until(lambda: ended)
        assert ended == [(1011, "keepalive ping timeout", "server", "keepalive")]
        assert hub.stats()["disconnects"] == {"keepalive": 1}


async def test_a_client_that_takes_not_even_the_close_is_cut_off():
    hub = Hub(close_seconds=0.05)
    async with serving(hub, **SOON) as server:
        with closing(await RawClient.connect(server.port)):
            await until(lambda: hub.stats()["disconnects"] == {"keepalive": 1})


@pytest.mark.parametrize(
    "sign", [b"\x81", client_frame(PONG, b""), client_frame(TEXT, b"")], ids=["byte", "pong", "text"]
)
async def test_any_byte_is_a_sign_of_life(sign):
    async with serving(Hub(), **SOON) as server:
        with closing(await RawClient.connect(server.port)) as client:
            assert (await client.read_frames(1))[0].opcode == PING
            await client.send(sign)
            assert (await client.read_frames(1))[0].opcode == PING  # again, and no CLOSE


async def test_who_sends_is_not_pinged():
    async with serving(Hub(), ping_seconds=0.2, pong_seconds=600) as server:
        with closing(await RawClient.connect(server.port)) as client:
            watching = asyncio.ensure_future(watch_the_clock(server))
            while not watching.done():
                await client.send_frame(TEXT, b"x")
                await asyncio.sleep(0)
            await watching
            await client.send_frame(PING, b"last")
            assert await client.read_frames(1) == [Frame(PONG, b"last")]


async def test_a_blocked_client_is_neither_pinged_nor_given_up():
    hub = Hub(stall_seconds=600)
    hub.configure("*", max_lag_bytes=2**30, soft_lag_seconds=600, max_burst_bytes=0)
    buffers = dict(SMALL_BUFFERS)
    async with serving(hub, send_buffer_bytes=buffers["send_buffer_bytes"], **SOON) as server:
        blocked = await RawClient.connect(server.port, "/x", buffers["receive_buffer_bytes"])
        with closing(blocked):
            client = client_of(hub, "x")
            sent = []

            def publish():
                sent.append(hub.publish("x", bytes(10_000)))

            await fill(client, publish)
            for _ in range(10):     # TCP may take a little more later, when it probes the window
                publish()
            await watch_the_clock(server)
            assert client.is_open
            assert client.is_writing_paused
            assert {frame.opcode for frame in await blocked.read_frames(len(sent))} == {2}


@pytest.mark.parametrize(
    "options", [{"max_inbox_messages": 1}, {"max_inbound_messages_per_second": 1e-6}], ids=["inbox", "rate"]
)
async def test_a_client_that_is_not_read_from_is_not_given_up(options):
    hub = Hub(**options)
    handled, go_on = [], asyncio.Event()

    @hub.on_message
    async def work(client, message):
        handled.append(message)
        if "max_inbox_messages" in options:
            await go_on.wait()

    async with serving(hub, **SOON) as server:
        with closing(await RawClient.connect(server.port, "/x")) as held:
            await held.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(3)))
            await until(lambda: hub.stats()["received_messages"] == 2)
            await watch_the_clock(server)
            assert client_of(hub, "x").is_open
            assert "keepalive" not in hub.stats()["disconnects"]
            if "max_inbox_messages" in options:  # it is asked again when it is read from again
                go_on.set()
                await answer_pings(held, 3)
                await until(lambda: handled == ["0", "1", "2"])


async def test_a_client_that_is_not_read_from_and_was_reset_is_seen_to_be_gone():
    hub = Hub(max_inbound_messages_per_second=1e-6)
    async with serving(hub, **SOON) as server:
        held = await RawClient.connect(server.port, "/x")
        await held.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2"))
        await until(lambda: hub.stats()["inbound_pauses"] == 1)
        held.reset()
        await until(lambda: hub.stats()["disconnects"] == {"connection_lost": 1})


async def test_nobody_is_pinged_where_it_is_off():
    hub = Hub()
    async with serving(hub, **PATIENT) as server, serve(hub, ping_seconds=0) as quiet:
        with closing(await RawClient.connect(quiet.port, "/quiet")) as client:
            await watch_the_clock(server)
            hub.publish("quiet", "first of all")
            assert await client.read_payloads(1) == [b"first of all"]


async def test_who_is_gone_is_forgotten_and_the_timer_stops():
    hub = Hub()
    async with serving(hub, **PATIENT) as server:
        for _ in range(3):
            with closing(await RawClient.connect(server.port)):
                await subscribed(hub, "default")
            await until(lambda: hub.stats()["clients"] == 0)
            assert not any(server._keepalive._buckets)
        await until(lambda: not server._keepalive._ticker.is_running)


async def test_a_real_client_answers_by_itself():
    hub = Hub()
    async with serving(hub, ping_seconds=0.05, pong_seconds=20) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/", ping_interval=None) as client:
            await watch_the_clock(server)
            hub.publish("default", "after pings")
            assert await client.recv() == "after pings"
            assert hub.stats()["pings"] > 5


class Newcomer:
    _bucket = None


async def test_clients_that_come_together_are_not_pinged_together():
    keepalive = Keepalive(25, 20)
    newcomers = [Newcomer() for _ in range(200)]
    for newcomer in newcomers:
        keepalive.add(newcomer)
    sizes = [len(bucket) for bucket in keepalive._buckets if bucket]
    assert sum(sizes) == 200
    assert len(sizes) >= 5
    for newcomer in newcomers:
        keepalive.discard(newcomer)


async def test_a_wheel_that_turns_for_a_year_is_small_and_nobody_in_it_is_due_early():
    looks = []

    class Quiet(Newcomer):
        def _keep_alive(self, ping_seconds, pong_seconds, now):
            looks.append(ping_seconds)
            return ping_seconds

    keepalive = Keepalive(365 * 24 * 3600, 20)
    client = Quiet()
    keepalive.add(client)
    assert len(keepalive._buckets) <= MAX_BUCKETS
    for _ in range(len(keepalive._buckets) - 2):
        keepalive._tick(0.0)
    assert looks == []
    for _ in range(len(keepalive._buckets) + 2):
        keepalive._tick(0.0)
    assert len(looks) == 2
    keepalive.discard(client)
