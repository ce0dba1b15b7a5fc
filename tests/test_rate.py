"""max_messages_per_second: at most so many messages a second for each subscriber, of each key the newest.

Times are bounded from below only: a release may come late, never early.
"""

import time

import pytest
from reference import close_payload
from support import SMALL_BUFFERS, check, connections, end_turn, numbered, numbers, until

from fastbcast import Flushed, Hub, Missed


def make_hub(max_messages_per_second, **settings):
    hub = Hub()
    hub.configure("x", policy="conflate", max_messages_per_second=max_messages_per_second, **settings)
    return hub


@pytest.mark.parametrize(
    ("per_second", "count", "least_seconds"),
    [
        (10, 4, 0.3),       # one every 100 ms
        (20, 5, 0.2),       # one every 50 ms
        (100, 16, 0.15),    # five every 50 ms
        (30, 5, 0.13),      # two every 67 ms
        (2.5, 2, 0.4),
    ],
)
async def test_messages_come_at_most_so_often(per_second, count, least_seconds):
    hub = make_hub(per_second)
    async with connections(hub, "/x") as (raw, client):
        began = time.monotonic()
        for number in range(count):
            hub.publish("x", b"%d" % number)
        assert await raw.read_payloads(count) == [b"%d" % number for number in range(count)]
        assert time.monotonic() - began >= least_seconds
        assert client.missed == Missed(0, 0)


@pytest.mark.parametrize(("per_second", "at_once"), [(100, 5), (30, 2), (21, 2), (20, 1), (1, 1)])
async def test_a_release_brings_all_that_it_may_at_once(per_second, at_once):
    """And releases come at most 20 times a second."""

    hub = make_hub(per_second)
    async with connections(hub, "/x", "/x") as [(one, _), (two, _)]:
        count = 2 * at_once
        for number in range(count):
            hub.publish("x", b"%d" % number)
        await end_turn()
        assert (hub.stats()["sends"], hub.stats()["delivered_messages"]) == (2, 2 * at_once)
        for raw in (one, two):
            assert await raw.read_payloads(count) == [b"%d" % number for number in range(count)]
        assert hub.stats()["sends"] == 2 * 2


async def test_of_each_key_the_newest_comes_and_the_rest_is_conflated():
    hub = make_hub(20)
    async with connections(hub, "/x") as (raw, client):
        for number in range(1, 101):
            hub.publish("x", b"%d" % number, key=number % 2)
            await end_turn()
        received = [int(payload) for payload in await raw.read_payloads(2)]
        while received[-1] != 100:
            received += [int(payload) for payload in await raw.read_payloads(1)]
        assert received == sorted(set(received))
        assert received[0] == 1
        assert received[-2:] == [99, 100]
        assert client.missed == Missed(0, 100 - len(received))
        assert hub.stats()["conflated_messages"] == 100 - len(received)
        check(hub)


async def test_the_newest_message_comes_though_nothing_follows_it():
    hub = make_hub(20)
    async with connections(hub, "/x") as (raw, client):
        for number in range(10):
            hub.publish("x", b"%d" % number, key="k")
        assert await raw.read_payloads(1) == [b"9"]
        hub.publish("x", b"10", key="k")
        hub.publish("x", b"11", key="k")
        assert await raw.read_payloads(1) == [b"11"]
        assert (client.missed, client.lag.messages) == (Missed(0, 10), 0)


async def test_messages_without_a_key_wait_up_to_the_bound_and_the_oldest_are_skipped():
    hub = make_hub(10, max_lag_bytes=3 * (5 + 96))
    async with connections(hub, "/x") as (raw, client):
        hub.publish("x", b"000")
        assert await raw.read_payloads(1) == [b"000"]
        for number in range(1, 11):
            hub.publish("x", b"%03d" % number)
        assert await raw.read_payloads(3) == [b"008", b"009", b"010"]
        assert client.missed == Missed(7, 0)
        check(hub)


async def test_every_subscriber_has_a_rate_of_its_own_and_a_joiner_begins_now():
    hub = make_hub(20)
    async with connections(hub, "/x", "/other") as [(early, _), (late, joiner)]:
        began = time.monotonic()
        for number in range(3):
            hub.publish("x", b"%d" % number)
        await end_turn()
        joiner.subscribe("x")
        for number in range(3, 5):
            hub.publish("x", b"%d" % number)
        assert await late.read_payloads(2) == [b"3", b"4"]
        assert time.monotonic() - began >= 0.1
        assert await early.read_payloads(5) == [b"0", b"1", b"2", b"3", b"4"]
        assert time.monotonic() - began >= 0.2
        assert joiner.missed == Missed(0, 0)
        check(hub)


async def test_channels_without_a_limit_and_direct_messages_are_not_held_back():
    hub = make_hub(0.1)
    async with connections(hub, "/x") as (raw, client):
        client.subscribe("other")
        hub.publish("x", "1")
        assert await raw.read_payloads(1) == [b"1"]
        hub.publish("x", "2")
        for number in range(50):
            hub.publish("other", b"other %d" % number)
        assert client.send("direct")
        assert await raw.read_payloads(51) == [*(b"other %d" % number for number in range(50)), b"direct"]
        assert client.lag.messages == 1  # "2" waits
        client.close(4000)  # now or never
        assert [frame.payload for frame in await raw.read_to_close()] == [b"2", close_payload(4000)]


async def test_flushed_waits_for_the_release():
    hub = make_hub(5)
    async with connections(hub, "/x", "/x") as [(raw, _), (_, leaving)]:
        channel = hub.channel("x")
        began = time.monotonic()
        hub.publish("x", "1", key="k")
        assert await channel.flushed() == Flushed(written=2)
        superseded = channel.flushed(hub.publish("x", "2", key="k"))
        awaited = channel.flushed(hub.publish("x", "3", key="k"))
        assert await channel.flushed(timeout=0) == Flushed(pending=2)
        assert await superseded == Flushed(conflated=2)
        leaving.unsubscribe("x")
        assert await awaited == Flushed(written=1, left=1)
        assert time.monotonic() - began >= 0.2
        assert await raw.read_payloads(2) == [b"1", b"3"]


async def test_a_client_that_does_not_read_gets_the_newest_when_it_does():
    hub = make_hub(1000)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = 0
        while not client.is_writing_paused:
            count += 1
            hub.publish("x", numbered(count))
            await until(lambda: client.is_writing_paused or client.lag.messages == 0)
        for number in range(count + 1, count + 101):
            hub.publish("x", numbered(number), key=number % 3)
            await end_turn()
        received = numbers(await raw.read_payloads(count + 3))
        assert received == [*range(1, count + 1), count + 98, count + 99, count + 100]
        await hub.flushed()
        assert client.missed == Missed(0, 97)
        check(hub)


async def test_a_large_publish_does_not_come_earlier_for_being_swept_at_once():
    hub = make_hub(10, max_unswept_bytes=1)
    async with connections(hub, "/x") as (raw, _):
        began = time.monotonic()
        for number in range(3):
            hub.publish("x", numbered(number))
            assert hub.stats()["delivered_messages"] == 1
        assert numbers(await raw.read_payloads(3)) == [0, 1, 2]
        assert time.monotonic() - began >= 0.2


async def test_a_channel_whose_subscribers_leave_before_the_release_holds_nothing():
    hub = make_hub(5)
    async with connections(hub, "/x") as (raw, client):
        hub.publish("x", "1")
        assert await raw.read_payloads(1) == [b"1"]
        hub.publish("x", numbered(2))
        await end_turn()
        assert hub.stats()["log_bytes"] > 10_000
        client.unsubscribe("x")
        await until(lambda: not hub.channels())  # its timer needed it until now
        assert hub.stats()["log_bytes"] == 0


async def test_who_comes_back_within_a_release_gets_no_more_than_others():
    hub = make_hub(10)
    async with connections(hub, "/x") as (raw, client):
        channel = hub.channel("x")  # or it would be forgotten in between
        began = time.monotonic()
        channel.publish("1")
        assert await raw.read_payloads(1) == [b"1"]
        client.unsubscribe("x")
        client.subscribe("x")
        channel.publish("2")
        channel.publish("3")
        assert await raw.read_payloads(2) == [b"2", b"3"]
        assert time.monotonic() - began >= 0.2
