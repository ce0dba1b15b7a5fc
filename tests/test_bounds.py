"""Bounds over all channels of a hub: what logs hold, and what Transports pin."""

import asyncio
import sys

import pytest
import uvloop
from support import check, connections, fill, read_some, stall, until

from fastbcast import Disconnect, Flushed, Hub, KeysFull

KIB = 1024
MIB = 1024 * KIB
SIZE = 8 * KIB
BIG = 500 * KIB         # more than is copied; two are within a MiB, three are not
BUFFERS = {"send_buffer_bytes": 16 * KIB, "notsent_lowat_bytes": 4 * KIB, "receive_buffer_bytes": 4096}
LOG_FULL = Disconnect(1013, "slow consumer", "server", "log_full")
PINNED_FULL = Disconnect(1006, "slow consumer", "server", "pinned_full")

policies = pytest.mark.parametrize("policy", ["evict", "skip", "latest"])


def message(number, size=SIZE):
    return number.to_bytes(4, "big") * (size // 4)


def number_of(payload):
    return int.from_bytes(payload[:4], "big")


# max_log_bytes.


@policies
async def test_the_largest_log_is_relieved_and_the_others_are_left_alone(policy):
    hub = Hub(max_log_bytes=MIB, close_seconds=0.1)
    hub.configure("*", policy=policy, max_lag_bytes=64 * MIB)
    async with connections(hub, "/large", "/small", "/large", "/small", **BUFFERS) as pairs:
        (_, behind), (small_raw, small), *healthy = pairs
        for number in range(200):
            for channel, raw in (("large", healthy[0][0]), ("small", healthy[1][0])):
                if channel == "large" or number % 8 == 0:
                    hub.publish(channel, message(number))
                    assert await raw.read_payloads(1) == [message(number)]
                    assert hub.stats()["log_bytes"] <= MIB
        check(hub)
        assert hub.stats()["reliefs"] > 0
        assert all(client.is_open and client.missed == (0, 0) for _, client in [pairs[1], *healthy])
        assert await small_raw.read_payloads(25) == [message(number) for number in range(0, 200, 8)]
        assert small.lag.messages == 0
        if policy == "evict":
            assert behind.disconnected == LOG_FULL
        else:
            assert behind.is_open
            assert hub.stats()["disconnects"] == {}
            assert behind.missed.skipped == hub.stats()["skipped_messages"] > 0


@policies
async def test_of_a_logs_clients_those_that_are_furthest_behind_are_relieved(policy):
    hub = Hub(max_log_bytes=MIB, close_seconds=0.1)
    hub.configure("x", policy=policy, max_lag_bytes=64 * MIB)
    async with connections(hub, "/x", "/", **BUFFERS) as [(_, far), (raw, near)]:
        await fill(far, lambda: hub.publish("x", message(0)))
        while hub.stats()["log_bytes"] < 5 * MIB // 8:
            hub.publish("x", message(0))
        near.subscribe("x")
        published = 0
        while not hub.stats()["reliefs"]:
            published += 1
            hub.publish("x", message(published))
            await asyncio.sleep(0)
        assert (far.disconnected == LOG_FULL) if policy == "evict" else far.missed.skipped > 0
        assert near.is_open
        assert near.missed == (0, 0)
        assert [number_of(payload) for payload in await raw.read_payloads(published)] == [*range(1, published + 1)]


async def test_a_backlog_of_many_pieces_is_offered_whole_before_more_may_come():
    """One send takes 16 segments: what does not fit in must count as not swept."""

    hub = Hub(slice_seconds=0.0001)
    hub.configure("x", max_unswept_bytes=2 * MIB, max_lag_bytes=64 * MIB)
    async with connections(hub, "/x", send_buffer_bytes=8 * MIB, notsent_lowat_bytes=0) as (raw, client):
        size, largest = 33 * KIB, 0     # a segment each
        for number in range(0, 600, 24):
            for more in range(24):
                hub.publish("x", message(number + more, size))
            await asyncio.sleep(0)
            while read_some(raw, MIB):
                pass
            if not client.is_writing_paused:
                largest = max(largest, hub.stats()["log_bytes"])
        assert 0 < largest <= 2 * (2 * MIB + 24 * size)
        assert [number_of(payload) for payload in await raw.read_payloads(600)] == [*range(600)]


@policies
async def test_the_bound_holds_while_control_never_comes_back_to_the_loop(policy):
    hub = Hub(max_log_bytes=MIB, close_seconds=0.1)
    hub.configure("*", policy=policy, max_lag_bytes=64 * MIB)
    async with connections(hub, "/a", "/b", "/c", **BUFFERS) as pairs:
        for number in range(200):  # 4.8 MiB
            for channel in "abc":
                hub.publish(channel, message(number))
                assert hub.stats()["log_bytes"] <= MIB
        check(hub)
        if policy == "evict":
            assert [client.disconnected for _, client in pairs] == [LOG_FULL] * 3
            return
        for raw, client in pairs:
            numbers = [0]
            while numbers[-1] != 199:
                numbers += map(number_of, await raw.read_payloads(1))
            assert numbers[1:] == sorted(set(numbers))
            assert len(numbers) - 1 + client.missed.skipped == 200


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_as_a_last_resort_who_is_behind_is_evicted_under_every_policy(policy):
    """The newest message is never skipped, and here each log holds nothing else."""

    hub = Hub(max_log_bytes=MIB, close_seconds=0.1)
    hub.configure("*", policy=policy)
    names = [str(number) for number in range(8)]
    async with connections(hub, *[f"/{name}" for name in names], **BUFFERS) as pairs:
        for name in names:
            await stall(hub, name)
        for name in names:
            hub.publish(name, message(1, 200 * KIB))
            assert hub.stats()["log_bytes"] <= MIB
        evicted = [client for _, client in pairs if not client.is_open]
        assert 3 <= len(evicted) <= 5
        assert {client.disconnected for client in evicted} == {LOG_FULL}
        assert hub.stats()["skipped_messages"] == 0


async def test_the_newest_messages_of_keys_count_and_others_are_relieved_for_them():
    hub = Hub(max_log_bytes=MIB, close_seconds=0.1)
    hub.configure("keyed", policy="conflate")
    async with connections(hub, "/keyed", "/evict", **BUFFERS) as [(raw, keyed), (_, evict)]:
        await stall(hub, "evict")
        while hub.stats()["log_bytes"] < 3 * MIB // 4:
            hub.publish("evict", message(0))
        await fill(keyed, lambda: hub.publish("keyed", message(0), key=0))
        for number in range(1, 50):
            hub.publish("keyed", message(number), key=number)
            assert hub.stats()["log_bytes"] <= MIB
        assert evict.disconnected == LOG_FULL
        assert hub.stats()["log_bytes"] == hub.channel("keyed").log_bytes >= 50 * (SIZE + 4 + 96)
        numbers = [0]
        while numbers[-1] != 49:
            numbers += map(number_of, await raw.read_payloads(1))
        assert numbers[-49:] == [*range(1, 50)]
        assert keyed.missed.skipped == 0


async def test_messages_without_a_key_of_conflating_channels_are_dropped_for_the_bound():
    hub = Hub(max_log_bytes=MIB)
    hub.configure("*", policy="conflate")
    async with connections(hub, *[f"/{number}" for number in range(8)], **BUFFERS) as pairs:
        for number in range(60):  # 3.8 MiB, less than max_lag_bytes on each channel
            for channel in range(8):
                hub.publish(str(channel), message(number))
                assert hub.stats()["log_bytes"] <= MIB
            await asyncio.sleep(0)
        for raw, client in pairs:
            numbers = [0]
            while numbers[-1] != 59:
                numbers += map(number_of, await raw.read_payloads(1))
            assert numbers[1:] == sorted(set(numbers))
            assert client.missed == (60 - len(numbers[1:]), 0)


async def test_keys_of_all_channels_take_at_most_half_of_max_log_bytes():
    hub = Hub(max_log_bytes=64 * KIB)
    hub.configure("*", policy="conflate")
    one, other = hub.channel("one"), hub.channel("other")
    for key in range(3):
        one.publish(message(0), key=key)
    with pytest.raises(KeysFull) as caught:
        other.publish(message(0), key="a")
    assert (caught.value.max_bytes, other.seq) == (32 * KIB, 0)
    one.publish(message(1), key=0)  # of a key that is there already
    assert hub.forget("one", 0) is True
    assert other.publish(message(0), key="a") == 1
    del one, other
    assert hub.stats()["log_bytes"] == 0


# max_pinned_bytes.


def pins():
    """Whether the loop's Transports keep the views that they are given: asyncio's copied them before Python 3.12."""
    return sys.version_info >= (3, 12) or isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_a_frame_that_several_transports_hold_is_counted_once_until_the_last_lets_go():
    hub = Hub()
    async with connections(hub, "/x", "/x", "/x", **BUFFERS) as pairs:
        hub.publish("x", bytes(BIG))
        await until(lambda: all(client.is_writing_paused for _, client in pairs))
        assert await hub.flushed(timeout=0) == Flushed(pending=3)
        assert hub.stats()["log_bytes"] == 0
        pinned_bytes = hub.stats()["pinned_bytes"]
        assert (BIG <= pinned_bytes < BIG + KIB) if pins() else pinned_bytes == 0
        pairs[0][1].abort()
        assert await pairs[1][0].read_payloads(1) == [bytes(BIG)]
        await until(lambda: hub.stats()["clients"] == 2 and not pairs[1][1].is_writing_paused)
        assert hub.stats()["pinned_bytes"] == pinned_bytes
        assert await pairs[2][0].read_payloads(1) == [bytes(BIG)]
        await until(lambda: hub.stats()["pinned_bytes"] == 0)


async def test_over_max_pinned_bytes_who_has_taken_nothing_for_the_longest_is_aborted():
    hub = Hub(max_pinned_bytes=2 * MIB)
    async with connections(hub, *[f"/{number}" for number in range(8)], **BUFFERS) as pairs:
        for _, client in pairs:
            hub.publish(client.channel, bytes(BIG))
            await until(lambda client=client: client.is_writing_paused)
            await asyncio.sleep(0.02)  # so that they are of different age
            assert hub.stats()["pinned_bytes"] <= 2 * MIB
        gone = [client.disconnected for _, client in pairs if not client.is_open]
        if not pins():
            assert gone == []
            return
        assert gone == [PINNED_FULL] * 4  # as many fit
        assert [client.is_open for _, client in pairs] == [False] * 4 + [True] * 4
        for raw, _ in pairs[-4:]:
            assert await raw.read_payloads(1) == [bytes(BIG)]
        await until(lambda: hub.stats()["pinned_bytes"] == 0)
        await until(lambda: hub.stats()["disconnects"] == {"pinned_full": 4})


async def test_where_many_hold_the_same_frame_as_many_are_aborted_as_it_takes():
    """The first abort frees nothing: the others hold the frame too. And nothing is published any more."""

    hub = Hub(max_pinned_bytes=MIB)
    async with connections(hub, *["/many"] * 10, "/a", "/b", **BUFFERS) as pairs:
        for channel in ("many", "a", "b"):
            hub.publish(channel, bytes(BIG))
            await until(lambda channel=channel: all(c.is_writing_paused for _, c in pairs if c.channel == channel))
            await asyncio.sleep(0.02)
        await until(lambda: hub.stats()["pinned_bytes"] <= MIB)
        gone = {client.channel for _, client in pairs if not client.is_open}
        assert gone == ({"many"} if pins() else set())


async def test_who_was_blocked_anew_is_the_last_of_those_that_are_aborted():
    hub = Hub(max_pinned_bytes=2 * MIB)
    async with connections(hub, "/a", "/b", "/c", **BUFFERS) as pairs:
        (raw, again), (_, first), _ = pairs

        async def block(client):
            hub.publish(client.channel, bytes(BIG))
            await until(lambda: client.is_writing_paused)

        await block(again)
        await block(first)
        assert await raw.read_payloads(1) == [bytes(BIG)]
        await until(lambda: not again.is_writing_paused)
        await block(again)
        assert hub.paused.holders() == ([first, again] if pins() else [])


async def test_no_more_are_aborted_than_it_takes():
    """A view keeps a whole segment, which is larger than the rest of the frame in it."""

    frame_bytes = BIG + 10
    hub = Hub(max_pinned_bytes=3 * frame_bytes - (frame_bytes - 5))
    async with connections(hub, "/a", "/b", "/c", **BUFFERS) as pairs:
        for _, client in pairs:
            hub.publish(client.channel, bytes(BIG))
            await until(lambda client=client: client.is_writing_paused)
        await until(lambda: hub.stats()["pinned_bytes"] <= hub.options.max_pinned_bytes)
        assert [client.is_open for _, client in pairs] == [not pins(), True, True]


async def test_large_frames_of_keys_that_slow_clients_hold_are_counted_and_bounded():
    """Each of them is cut in another message of the same key."""

    hub = Hub(max_pinned_bytes=4 * MIB)
    hub.configure("x", policy="conflate")
    async with connections(hub, *["/x"] * 20, **BUFFERS) as pairs:
        largest = 0
        for number in range(40):
            hub.publish("x", message(number, BIG), key="k")
            raw, client = pairs[number % 20]
            if client.is_open:
                await raw.read_payloads(1)
                await until(lambda client=client: client.lag.messages <= 1 or not client.is_open)
            largest = max(largest, hub.stats()["pinned_bytes"])
            await until(lambda: hub.stats()["pinned_bytes"] <= 4 * MIB)
        assert (largest > 3 * MIB) is pins()
        check(hub)


async def test_clients_that_share_a_large_frame_of_a_key_and_read_are_left_alone():
    hub = Hub(max_pinned_bytes=MIB)
    hub.configure("x", policy="conflate")
    async with connections(hub, *["/x"] * 20, ping_seconds=0, **BUFFERS) as pairs:
        for number in range(5):
            hub.publish("x", message(number, BIG), key="k")
            await until(lambda: all(client.is_writing_paused for _, client in pairs))
            assert hub.stats()["pinned_bytes"] <= BIG + KIB
            for raw, _ in pairs:
                assert await raw.read_payloads(1) == [message(number, BIG)]
            await until(lambda: not any(client.is_writing_paused for _, client in pairs))
        assert all(client.is_open and client.missed == (0, 0) for _, client in pairs)


async def test_over_max_pinned_bytes_who_is_being_closed_goes_before_who_has_only_just_stopped_reading():
    hub = Hub(max_pinned_bytes=MIB)
    async with connections(hub, "/closing", "/a", "/b", **BUFFERS) as pairs:
        for _, client in pairs:
            hub.publish(client.channel, bytes(BIG))
            await until(lambda client=client: client.is_writing_paused or not client.is_open)
            if client.channel == "closing":
                client.close()
            await asyncio.sleep(0.02)
        assert [client.is_open for _, client in pairs] == [False, True, True]
        assert hub.stats()["pinned_bytes"] <= MIB


# When all is gone.


@pytest.mark.parametrize(
    ("policy", "rate"), [("evict", 0), ("skip", 0), ("latest", 0), ("conflate", 0), ("conflate", 50),
     ("evict", 50), ("skip", 50), ("latest", 50)]
)
async def test_when_all_clients_are_gone_there_is_no_channel_and_no_byte(policy, rate):
    hub = Hub(close_seconds=0.1)
    hub.configure("*", policy=policy, max_lag_bytes=64 * KIB, max_burst_bytes=0, max_messages_per_second=rate)
    paths = [f"/{number % 3}" for number in range(9)]
    async with connections(hub, *paths, **BUFFERS) as pairs:
        largest = 0
        for number in range(60):
            for channel in "012":
                hub.publish(channel, message(number), key=number % 7 if number % 2 else None)
            await asyncio.sleep(0)
            largest = max(largest, hub.stats()["log_bytes"])
        hub.publish("0", bytes(BIG))
        assert largest > 64 * KIB
        for number, (raw, client) in enumerate(pairs):
            (raw.close, raw.reset, client.abort)[number // 3]()
        await until(lambda: hub.stats()["clients"] == 0)
        # The timer of a release keeps its channel, for a twentieth of a second here.
        await until(lambda: hub.stats()["channels"] == 0)
        assert (hub.stats()["log_bytes"], hub.stats()["pinned_bytes"]) == (0, 0)
