"""The sweep on real sockets: who gets what, in which order, when clients come, go, or are many."""

import asyncio
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import RawClient, serving
from reference import BINARY, PING, TEXT, encode_frame
from support import check, client_of, stall, until

import fastbcast

KIB = 1024


# What everybody gets.


async def test_every_subscriber_gets_every_message_once_and_in_order():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        clients = [await RawClient.connect(server.port, "/x") for _ in range(20)]
        messages = [os.urandom(random.choice([0, 1, 125, 126, 3000, 66_000])) for _ in range(60)]
        reading = [asyncio.ensure_future(client.read_payloads(60)) for client in clients]
        for message in messages:
            hub.publish("x", message)
            if random.random() < 0.3:
                await asyncio.sleep(0)
        for payloads in await asyncio.gather(*reading):
            assert payloads == messages
        check(hub)


async def test_messages_of_one_turn_go_out_in_one_send():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        clients = [await RawClient.connect(server.port, "/x") for _ in range(5)]
        for i in range(64):
            hub.publish("x", b"%03d" % i)
        await hub.flushed()
        stats = hub.stats()
        assert (stats["sends"], stats["delivered_messages"], stats["sweeps"]) == (5, 5 * 64, 1)
        assert stats["log_bytes"] <= KIB
        for client in clients:
            assert await client.read_payloads(64) == [b"%03d" % i for i in range(64)]


async def test_a_backlog_of_more_segments_than_one_send_takes_goes_out_whole():
    hub = fastbcast.Hub()
    async with serving(hub, notsent_lowat_bytes=0) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4 * 1024 * KIB)
        messages = [bytes([i]) * 33 * KIB for i in range(60)]  # each has a segment of its own
        for message in messages:
            hub.publish("x", message)
        assert await client.read_payloads(60) == messages
        assert hub.stats()["sends"] > 60 // 16


async def test_a_subscriber_gets_only_what_is_published_after_it_joined():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        first = await RawClient.connect(server.port, "/x")
        hub.publish("x", b"before")
        late = await RawClient.connect(server.port, "/x")
        hub.publish("x", b"after")
        assert await first.read_payloads(2) == [b"before", b"after"]
        assert await late.read_payloads(1) == [b"after"]


async def test_coalescing_waits_and_sends_less_often():
    hub = fastbcast.Hub()
    hub.configure("x", coalesce_seconds=0.01)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x")
        for _ in range(10):
            hub.publish("x", b"m")
            for _ in range(5):
                await asyncio.sleep(0)
        assert hub.stats()["sends"] <= 1
        assert len(await client.read_payloads(10)) == 10


# A sweep in slices.


@pytest.mark.parametrize("seed", range(5))
async def test_nobody_is_left_behind_when_clients_leave_during_a_sliced_sweep(seed):
    """Removal moves the last slot: from an unvisited place to a visited one it would miss the message."""

    generator = random.Random(seed)
    hub = fastbcast.Hub(slice_seconds=0.0001)
    hub.configure("*", max_unswept_bytes=64 * 1024 * KIB)
    async with serving(hub) as server:
        raw = [await RawClient.connect(server.port, "/x") for _ in range(150)]
        by_address = {client.remote_address: client for client in hub.clients()}
        clients = [by_address[client.sock.getsockname()] for client in raw]
        hub.publish("x", b"m" * 20_000)
        await until(lambda: hub.stats()["sends"] > 0)
        leavers = set()
        while hub.stats()["sends"] < 100 and hub.stats()["delivered_messages"] < 150:
            for i in generator.sample(range(150), 5):
                leavers.add(i)
                clients[i].unsubscribe("x")
                check(hub)
            await asyncio.sleep(0)
        assert leavers, "the sweep was not sliced"
        # The channel goes idle now: nothing else will make it dirty.
        for i, client in enumerate(raw):
            if i not in leavers:
                assert await client.read_payloads(1) == [b"m" * 20_000]
        check(hub)


async def test_clients_that_join_during_a_sliced_sweep_disturb_nobody():
    hub = fastbcast.Hub(slice_seconds=0.0001)
    async with serving(hub, subscribe_path=False) as server:
        raw = [await RawClient.connect(server.port, "/x") for _ in range(120)]
        by_address = {client.remote_address: client for client in hub.clients()}
        clients = [by_address[client.sock.getsockname()] for client in raw]
        for client in clients[:80]:
            client.subscribe("x")
        hub.publish("x", b"1" * 20_000)
        joiners = clients[80:]
        while joiners:
            await asyncio.sleep(0)
            joiners.pop().subscribe("x")
            check(hub)
        hub.publish("x", b"2")
        for client in raw[:80]:
            assert await client.read_payloads(2) == [b"1" * 20_000, b"2"]
        for client in raw[80:]:
            assert await client.read_payloads(1) == [b"2"]


async def test_the_loop_gets_a_turn_between_slices():
    hub = fastbcast.Hub(slice_seconds=0.0001)
    async with serving(hub) as server:
        clients = [await RawClient.connect(server.port, "/x") for _ in range(100)]
        hub.publish("x", b"m" * 20_000)
        turns = 0
        while hub.stats()["delivered_messages"] < 100:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 3
        for client in clients:
            assert await client.read_payloads(1) == [b"m" * 20_000]


# Clients that go.


async def test_a_reused_descriptor_gets_nothing_of_its_former_owner():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        for round_number in range(20):
            former = await RawClient.connect(server.port, "/former")
            former.reset()
            newcomer = await RawClient.connect(server.port, "/newcomer")
            hub.publish("former", b"not for you")
            hub.publish("newcomer", b"%d" % round_number)
            assert await newcomer.read_payloads(1) == [b"%d" % round_number]
            newcomer.close()
        check(hub)


async def test_nothing_follows_the_close_that_answers_a_protocol_error():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        offender = await RawClient.connect(server.port, "/x")
        witness = await RawClient.connect(server.port, "/x")
        await offender.send(encode_frame(TEXT, b"not masked"))
        count = turns_after = 0
        while turns_after < 10:     # it is gone from the channel by then, but its connection is still there
            hub.publish("x", b"%d" % count)
            count += 1
            await asyncio.sleep(0)
            turns_after += hub.count_subscribers("x") == 1
        assert (await offender.read_close())[0] == 1002
        assert await witness.read_payloads(count) == [b"%d" % i for i in range(count)]


async def test_a_protocol_error_of_a_client_that_does_not_read_still_ends_the_connection():
    hub = fastbcast.Hub(close_seconds=0.1)
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        await stall(hub, "x")
        await client.send(encode_frame(TEXT, b"not masked"))
        await until(lambda: hub.stats()["clients"] == 0)
        assert hub.stats()["disconnects"] == {"protocol_error": 1}


async def test_resets_in_the_middle_of_everything_hurt_nobody_else():
    hub = fastbcast.Hub(slice_seconds=0.0001)
    async with serving(hub) as server:
        healthy = [await RawClient.connect(server.port, "/x") for _ in range(10)]
        reading = [asyncio.ensure_future(client.read_payloads(200)) for client in healthy]
        victims = []
        for i in range(200):
            if i % 4 == 0:
                victims.append(await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096))
            hub.publish("x", i.to_bytes(2, "big") * 2000)
            if i % 4 == 3:
                victims.pop(random.randrange(len(victims))).reset()
            check(hub)
        for payloads in await asyncio.gather(*reading):
            assert payloads == [i.to_bytes(2, "big") * 2000 for i in range(200)]


async def test_what_was_published_before_a_close_goes_out_before_it():
    hub = fastbcast.Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port, "/x")
        hub.publish("x", b"last words")
        client_of(hub, "x").close(1000, "bye")
        frames = await client.read_frames(2)
        assert [frame.payload for frame in frames] == [b"last words", b"\x03\xe8bye"]


# The same by chance: any schedule, compared with what was published.


STEP = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([0, 1, 200, 5000, 70_000, 200_000])),
    st.tuples(st.just("direct"), st.sampled_from([0, 300, 9000])),
    st.tuples(st.just("read"), st.sampled_from([1, 1000, 50_000])),
    st.tuples(st.just("turn"), st.just(0)),
    st.tuples(st.just("ping"), st.just(5)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=80))
def test_any_schedule_of_writes_and_reads_keeps_the_stream_whole(run, steps):
    async def main():
        hub = fastbcast.Hub(slice_seconds=0.0001, max_direct_bytes=64 * 1024 * KIB)
        hub.configure("x", max_burst_bytes=256 * 1024 * KIB)
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
            published, direct = [], []
            reading = None
            for number, (step, size) in enumerate(steps):
                message = number.to_bytes(2, "big") + b"." * size
                if step == "publish":
                    published.append(b"p" + message)
                    hub.publish("x", published[-1])
                elif step == "direct":
                    direct.append(b"d" + message)
                    assert client_of(hub, "x").send(direct[-1])
                elif step == "ping":
                    await client.send_frame(PING, message[:5])
                elif step == "read" and (published or direct):
                    if reading is None or reading.done():  # asyncio takes one reader of a socket
                        reading = asyncio.ensure_future(client.receive(size))
                    await asyncio.wait({reading}, timeout=0)
                else:
                    await asyncio.sleep(0)
                check(hub)
            hub.publish("x", b"plast")
            published.append(b"plast")
            if reading is not None:
                await reading
            payloads = []
            while len(payloads) < len(published) + len(direct):
                payloads += [frame.payload for frame in await client.read_frames(1) if frame.opcode == BINARY]
            assert [payload for payload in payloads if payload[:1] == b"p"] == published
            assert [payload for payload in payloads if payload[:1] == b"d"] == direct

    run(main())
