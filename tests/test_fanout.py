"""The sweep on real sockets: who gets what, in which order, when clients are slow, gone, or many."""

import asyncio
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import RawClient, serving
from reference import BINARY, CLOSE, PING, PONG, TEXT, encode_frame

import fastbcast

KIB = 1024


async def until(condition):
    """Let the loop run until `condition()` holds; the test's time-out bounds it."""
    while not condition():
        await asyncio.sleep(0)


def client_of(hub, channel):
    return next(client for client in hub.clients() if client.channel == channel)


async def stall(hub, channel, size=16 * KIB):
    """Publish to `channel`, whose only client does not read, until the kernel refuses; return what was published."""
    published = []
    client = client_of(hub, channel)
    while not client.is_writing_paused:
        published.append(bytes([len(published) % 256]) * size)
        hub.publish(channel, published[-1])
        await asyncio.sleep(0)
    return published


def check(hub):
    for channel in hub.channels():
        channel.check_invariants()


# What everybody gets.


def test_every_subscriber_gets_every_message_once_and_in_order(run):
    async def main():
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

    run(main())


def test_messages_of_one_turn_go_out_in_one_send(run):
    async def main():
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

    run(main())


def test_a_subscriber_gets_only_what_is_published_after_it_joined(run):
    async def main():
        hub = fastbcast.Hub()
        async with serving(hub) as server:
            first = await RawClient.connect(server.port, "/x")
            hub.publish("x", b"before")
            late = await RawClient.connect(server.port, "/x")
            hub.publish("x", b"after")
            assert await first.read_payloads(2) == [b"before", b"after"]
            assert await late.read_payloads(1) == [b"after"]

    run(main())


def test_coalescing_waits_and_sends_less_often(run):
    async def main():
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

    run(main())


# A sweep in slices.


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_left_behind_when_clients_leave_during_a_sliced_sweep(run, seed):
    """Removal moves the last slot: from an unvisited place to a visited one it would miss the message."""

    async def main():
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

    run(main())


def test_clients_that_join_during_a_sliced_sweep_disturb_nobody(run):
    async def main():
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

    run(main())


def test_the_loop_gets_a_turn_between_slices(run):
    async def main():
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

    run(main())


# A socket that is full.


@pytest.mark.parametrize("size", [100, 16 * KIB], ids=["refused whole", "refused in part"])
def test_a_stalled_client_gets_everything_once_it_reads_again_even_on_an_idle_channel(run, size):
    """A small frame is refused whole: the Transport must hold it all the same, or no write event is armed."""

    async def main():
        hub = fastbcast.Hub()
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
            published = await stall(hub, "x", size)
            for i in range(5):
                published.append(b"more%d" % i)
                hub.publish("x", published[-1])
            await asyncio.sleep(0)
            check(hub)
            assert await client.read_payloads(len(published)) == published
            await until(lambda: hub.stats()["log_bytes"] <= KIB)
            check(hub)

    run(main())


def test_a_frame_larger_than_the_socket_takes_is_finished_by_the_transport(run):
    async def main():
        hub = fastbcast.Hub(max_message_bytes=8 * 1024 * KIB)
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=128 * KIB)
            big = os.urandom(5 * 1024 * KIB)
            hub.publish("x", big)
            hub.publish("x", b"small")
            assert await client.read_payloads(2) == [big, b"small"]

    run(main())


def test_a_client_blocked_on_one_channel_gets_nothing_of_another_into_the_middle_of_a_frame(run):
    async def main():
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

    run(main())


def test_pongs_direct_messages_and_close_come_at_frame_boundaries(run):
    async def main():
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

    run(main())


def test_of_many_pings_while_blocked_only_the_latest_is_answered(run):
    async def main():
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

    run(main())


def test_a_direct_message_follows_what_was_published_before_it(run):
    async def main():
        hub = fastbcast.Hub()
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x")
            for i in range(50):
                hub.publish("x", b"p%d" % i)
                client_of(hub, "x").send(b"d%d" % i)
            expected = [b"%c%d" % (kind, i) for i in range(50) for kind in b"pd"]
            assert await client.read_payloads(100) == expected

    run(main())


# Slow consumers.


def test_a_client_that_never_reads_is_evicted_and_the_others_get_everything(run):
    async def main():
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

    run(main())


def test_an_evicted_client_that_reads_again_finds_the_close(run):
    async def main():
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

    run(main())


def test_a_burst_far_above_the_limit_evicts_nobody_who_reads(run):
    async def main():
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

    run(main())


def test_even_a_burst_is_bounded(run):
    async def main():
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

    run(main())


def test_direct_messages_to_a_stalled_client_are_bounded(run):
    async def main():
        hub = fastbcast.Hub(max_direct_bytes=100 * KIB)
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
            await stall(hub, "x", 200 * KIB)
            results = [client_of(hub, "x").send(b"d" * 10 * KIB) for _ in range(12)]
            assert results == [True] * 9 + [False] * 3
            frames = await client.read_to_close()
            assert frames[-1].payload[:2] == (1013).to_bytes(2, "big")

    run(main())


# Clients that go.


def test_a_reused_descriptor_gets_nothing_of_its_former_owner(run):
    async def main():
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

    run(main())


def test_nothing_follows_the_close_that_answers_a_protocol_error(run):
    """picows finds the error and would write a CLOSE of its own, without telling its listener."""

    async def main():
        hub = fastbcast.Hub()
        async with serving(hub) as server:
            offender = await RawClient.connect(server.port, "/x")
            witness = await RawClient.connect(server.port, "/x")
            await offender.send(encode_frame(TEXT, b"not masked"))
            count = 0
            while hub.stats()["disconnects"].get("protocol_error") is None:
                hub.publish("x", b"%d" % count)
                count += 1
                await asyncio.sleep(0)
            assert (await offender.read_close())[0] == 1002
            assert await witness.read_payloads(count) == [b"%d" % i for i in range(count)]

    run(main())


def test_a_protocol_error_of_a_client_that_does_not_read_still_ends_the_connection(run):
    async def main():
        hub = fastbcast.Hub(close_seconds=0.1)
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
            await stall(hub, "x")
            await client.send(encode_frame(TEXT, b"not masked"))
            await until(lambda: hub.stats()["clients"] == 0)
            assert hub.stats()["disconnects"] == {"protocol_error": 1}

    run(main())


def test_resets_in_the_middle_of_everything_hurt_nobody_else(run):
    async def main():
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

    run(main())


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
                    await asyncio.wait({asyncio.ensure_future(client.receive(size))}, timeout=0)
                else:
                    await asyncio.sleep(0)
                check(hub)
            hub.publish("x", b"plast")
            published.append(b"plast")
            payloads = []
            while len(payloads) < len(published) + len(direct):
                payloads += [frame.payload for frame in await client.read_frames(1) if frame.opcode == BINARY]
            assert [payload for payload in payloads if payload[:1] == b"p"] == published
            assert [payload for payload in payloads if payload[:1] == b"d"] == direct

    run(main())


def test_what_was_published_before_a_close_goes_out_before_it(run):
    async def main():
        hub = fastbcast.Hub()
        async with serving(hub) as server:
            client = await RawClient.connect(server.port, "/x")
            hub.publish("x", b"last words")
            client_of(hub, "x").close(1000, "bye")
            frames = await client.read_frames(2)
            assert [frame.payload for frame in frames] == [b"last words", b"\x03\xe8bye"]

    run(main())
