"""Conflating channels: of each key the newest message for whoever is behind, and all of them for who keeps up."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import (
    SMALL_BUFFERS,
    check,
    connections,
    end_turn,
    fall_behind,
    numbered,
    numbers,
    publish_in_turns,
    read_some,
    subscribed,
    until,
)

from fastbcast import Hub, KeysFull, Missed

MESSAGE_BYTES = 10_000
# What a message without a key costs: its frame, and 96 bytes.
KEPT_BYTES = MESSAGE_BYTES + 4 + 96


def make_hub(**settings):
    hub = Hub()
    hub.configure("x", policy="conflate", **settings)
    return hub


def publish(hub, first, keys):
    """Publish a message for each of `keys`, numbered from `first`."""
    for number, key in enumerate(keys, first):
        hub.publish("x", numbered(number), key=key)


# Who keeps up.


async def test_a_client_that_keeps_up_gets_every_message_of_a_key():
    hub = make_hub()
    async with connections(hub, "/x") as (raw, client):
        for turn in range(20):
            for number in range(10):  # one send for all of them
                hub.publish("x", b"%d" % (10 * turn + number), key="k")
            assert await raw.read_payloads(10) == [b"%d" % (10 * turn + number) for number in range(10)]
        assert client.missed == Missed(0, 0)


async def test_messages_for_nobody_reach_nobody_who_comes_later():
    hub = make_hub()
    channel = hub.channel("x")
    channel.publish("old", key="k")
    channel.publish("old too")
    async with connections(hub, "/x") as (raw, client):
        assert channel.publish("new", key="k") == 3
        assert await raw.read_payloads(1) == [b"new"]
        assert client.missed == Missed(0, 0)
        check(hub)


# Who is behind.


async def test_a_client_that_is_behind_gets_of_each_key_the_newest_in_the_order_of_publishing():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client, key="first")
        publish(hub, count + 1, ["a", "b", "a", "c", "b"])
        await end_turn()
        publish(hub, count + 6, ["a"])
        await end_turn()
        check(hub)
        assert client.is_writing_paused
        expected = [*range(1, count + 1), count + 4, count + 5, count + 6]  # c, b, a
        assert numbers(await raw.read_payloads(len(expected))) == expected
        await hub.flushed()
        assert client.missed == Missed(skipped=0, conflated=3)
        assert hub.stats()["conflated_messages"] == 3
        assert hub.stats()["delivered_messages"] == count + 3


async def test_keys_that_look_alike_are_not_the_same():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        publish(hub, count + 1, ["1", b"1", 1, "", b"", 0, "1", b"1", 1])
        await end_turn()
        assert numbers(await raw.read_payloads(count + 6))[count:] == [*range(count + 4, count + 10)]


async def test_whoever_has_caught_up_sees_every_message_again():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        for _ in range(3):
            count = await fall_behind(hub, "x", client, key="k")
            publish(hub, count + 1, "kkl")
            await end_turn()
            assert numbers(await raw.read_payloads(count + 2))[count:] == [count + 2, count + 3]
            hub.publish("x", "a small one", key="k")
            assert await raw.read_payloads(1) == [b"a small one"]
            missed = client.missed
            for number in range(5):
                hub.publish("x", b"%d" % number, key="k")
            assert await raw.read_payloads(5) == [b"0", b"1", b"2", b"3", b"4"]
            assert client.missed == missed
        assert client.missed == Missed(0, 3)


async def test_a_client_that_is_behind_holds_nothing_of_the_log():
    hub = make_hub()
    async with connections(hub, "/x", "/x", **SMALL_BUFFERS) as [(_, client), _]:
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 1000, key="k")
        assert client.lag.messages == 1001  # and the rest of a frame
        assert hub.stats()["log_bytes"] < 3 * MESSAGE_BYTES
        check(hub)


async def test_more_keys_than_one_send_takes_all_come_in_order():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        for number in range(1000):
            hub.publish("x", b"%d" % number, key=number % 300)
        await end_turn()
        payloads = await raw.read_payloads(count + 300)
        assert payloads[count:] == [b"%d" % number for number in range(700, 1000)]
        await hub.flushed()
        assert client.missed == Missed(0, 700)
        check(hub)


# Messages without a key.


async def test_a_long_way_to_catch_up_is_cut_into_slices():
    """Else a client with many keys to get would keep everybody waiting."""

    hub = Hub(slice_seconds=0.0001)
    hub.configure("x", policy="conflate", max_messages_per_second=10**6)
    async with connections(hub, "/x") as (raw, client):
        count = 4000
        for number in range(1, count + 1):
            hub.publish("x", numbered(number, 8), key=number)
        await end_turn()
        assert 16 <= hub.stats()["delivered_messages"] < count
        assert not client.is_writing_paused     # 40 KB fit into its socket
        assert numbers(await raw.read_payloads(count)) == [*range(1, count + 1)]


async def test_messages_without_a_key_are_all_kept_among_those_with_one():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        publish(hub, count + 1, [None, "a", None, "b", "a", None, "b", None])
        await end_turn()
        received = numbers(await raw.read_payloads(count + 6))[count:]
        assert [number - count for number in received] == [1, 3, 5, 6, 7, 8]
        await hub.flushed()
        assert client.missed == Missed(0, 2)


@pytest.mark.parametrize(("max_lag_bytes", "kept"), [(3 * KEPT_BYTES, 3), (3 * KEPT_BYTES - 1, 2)])
async def test_of_too_many_messages_without_a_key_the_oldest_are_skipped(max_lag_bytes, kept):
    hub = make_hub(max_lag_bytes=max_lag_bytes)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        publish(hub, count + 1, ["a", None, None, "a"])
        await publish_in_turns(hub, "x", count + 5, count + 8)
        check(hub)
        assert hub.stats()["log_bytes"] < (kept + 1) * KEPT_BYTES + 1000
        received = numbers(await raw.read_payloads(count + 1 + kept))[count:]
        assert [number - count for number in received] == [4, *range(9 - kept, 9)]
        await hub.flushed()
        assert client.missed == Missed(skipped=6 - kept, conflated=1)


# The bounds of the snapshot.


@pytest.mark.parametrize("bound", [{"max_keys": 3}, {"max_snapshot_bytes": 3 * (KEPT_BYTES + 1)}])
async def test_a_publish_above_the_bound_raises_and_nothing_is_queued(bound):
    hub = make_hub(**bound)
    async with connections(hub, "/x", "/x", **SMALL_BUFFERS) as [(raw, client), _]:
        count = await fall_behind(hub, "x", client)
        publish(hub, count + 1, "abc")
        before = hub.stats()["published_messages"], hub.channel("x").seq, client.lag.bytes
        with pytest.raises(KeysFull):
            hub.publish("x", numbered(0), key="d")
        assert (hub.stats()["published_messages"], hub.channel("x").seq, client.lag.bytes) == before
        publish(hub, count + 4, ["a", None])  # neither needs room
        assert hub.forget("x", "b")
        publish(hub, count + 6, "d")
        await end_turn()
        check(hub)
        received = numbers(await raw.read_payloads(count + 4))[count:]
        assert [number - count for number in received] == [3, 4, 5, 6]


async def test_a_slow_client_never_makes_a_publish_raise():
    hub = make_hub(max_keys=2, max_snapshot_bytes=3 * KEPT_BYTES, max_lag_bytes=KEPT_BYTES)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 500):
            hub.publish("x", numbered(number), key=[None, "a", "b"][number % 3])
            await end_turn()
        received = numbers(await raw.read_payloads(count + 3))[count:]
        assert received == [count + 497, count + 498, count + 499]


async def test_a_key_that_is_forgotten_while_somebody_is_behind_is_not_sent():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        publish(hub, count + 1, "abacb")
        await end_turn()
        assert [hub.forget("x", "a"), hub.forget("x", "b"), hub.forget("x", "b")] == [True, True, False]
        check(hub)
        assert numbers(await raw.read_payloads(count + 1))[count:] == [count + 4]
        assert (await hub.flushed()).pending == 0
        assert client.missed == Missed(0, 4)
        publish(hub, 7, "a")  # the key is free again
        assert numbers(await raw.read_payloads(1)) == [7]


async def test_what_everybody_has_may_be_forgotten_and_what_nobody_was_offered_too():
    hub = make_hub()
    async with connections(hub, "/x") as (raw, client):
        hub.publish("x", "1", key="a")
        assert await raw.read_payloads(1) == [b"1"]
        assert hub.forget("x", "a")
        hub.publish("x", "2", key="a")
        assert hub.forget("x", "a")  # this client keeps up: it gets what was published
        hub.publish("x", "3", key="b")
        assert await raw.read_payloads(2) == [b"2", b"3"]
        assert client.missed == Missed(0, 0)


# Frames that are cut.


@pytest.mark.parametrize("size", [10_000, 65_530, 300_000])
async def test_a_frame_of_the_snapshot_that_is_cut_is_finished_though_it_was_superseded_meanwhile(size):
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        number = count
        received = 0
        before = None
        for _ in range(40):
            for key in "abc":
                number += 1
                hub.publish("x", numbered(number, size), key=key)
            await end_turn()
            await raw.receive(5000)  # some of a frame
            check(hub)
        for payload in await raw.read_payloads(count):
            received += 1
            assert int(payload[:8]) == received  # what was sent before it was behind
        while before != number:
            [payload] = await raw.read_payloads(1)
            assert payload == numbered(int(payload[:8]), size)
            assert before is None or int(payload[:8]) > before
            before = int(payload[:8])
            received += 1
        assert received + client.missed.conflated == number


async def test_large_frames_of_several_keys_come_whole_and_in_order():
    hub = make_hub()
    async with connections(hub, "/x", "/x", **SMALL_BUFFERS) as [(one, first), (two, second)]:
        count = await fall_behind(hub, "x", first, second)
        messages = [numbered(count + i, 200_000 + i) for i in range(1, 21)]
        for i, message in enumerate(messages):
            hub.publish("x", message, key=i % 10)
        await end_turn()
        for raw in (one, two):
            assert (await raw.read_payloads(count + 10))[count:] == messages[10:]


# Joining and leaving.


async def test_who_joins_while_others_are_behind_gets_what_is_published_from_then_on():
    hub = make_hub()
    async with connections(hub, "/x", "/other", **SMALL_BUFFERS) as [(raw, client), (late, joiner)]:
        count = await fall_behind(hub, "x", client)
        publish(hub, count + 1, ["a", "b", None])
        await end_turn()
        joiner.subscribe("x")
        await subscribed(hub, "x", 2)
        check(hub)
        for number, key in enumerate(["a", "c", None, "c"], count + 4):
            hub.publish("x", numbered(number), key=key)
            assert numbers(await late.read_payloads(1)) == [number]
        assert joiner.missed == Missed(0, 0)
        received = numbers(await raw.read_payloads(count + 5))[count:]
        assert [number - count for number in received] == [2, 3, 4, 6, 7]
        await hub.flushed()
        assert client.missed == Missed(0, 2)
        check(hub)


async def test_who_leaves_while_others_are_behind_changes_nothing_for_them():
    hub = make_hub()
    async with connections(hub, *["/x"] * 5, **SMALL_BUFFERS) as pairs:
        clients = [client for _, client in pairs]
        count = await fall_behind(hub, "x", *clients)
        publish(hub, count + 1, ["a", None, "b", "a"])
        await end_turn()
        clients[0].unsubscribe("x")
        clients[1].abort()
        check(hub)
        publish(hub, count + 5, ["b", None])
        clients[2].close()
        await end_turn()
        check(hub)
        for raw, client in pairs[3:]:
            received = numbers(await raw.read_payloads(count + 4))[count:]
            assert [number - count for number in received] == [2, 4, 5, 6]
            await until(lambda client=client: client.lag.messages == 0)
            assert client.missed == Missed(0, 2)
        clients[3].unsubscribe("x")
        clients[4].unsubscribe("x")
        assert hub.channel("x").subscribers == 0


# By chance.

STEP = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([None, None, "a", "b", b"c", 4])),
    st.tuples(st.just("publish"), st.integers(0, 40)),
    st.tuples(st.just("forget"), st.sampled_from(["a", "b", b"c", 4])),
    st.tuples(st.just("read"), st.sampled_from([100, 9000, 60_000])),
    st.tuples(st.just("turn"), st.none()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(STEP, min_size=20, max_size=150), st.sampled_from([8, 3000, 20_000, 90_000]))
def test_any_schedule_keeps_the_order_the_newest_of_each_key_and_the_count(run, is_behind, steps, size):
    async def scenario():
        hub = make_hub(max_lag_bytes=10**8)
        async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
            published = await fall_behind(hub, "x", client) if is_behind else 0
            newest, keyless = {}, [*range(1, published + 1)]
            for step, argument in steps:
                if step == "publish":
                    published += 1
                    hub.publish("x", numbered(published, size), key=argument)
                    if argument is None:
                        keyless.append(published)
                    else:
                        newest[argument] = published
                elif step == "forget":
                    if hub.forget("x", argument):
                        newest.pop(argument)
                elif step == "read":
                    read_some(raw, argument)
                else:
                    await end_turn()
                check(hub)
            published += 1
            hub.publish("x", numbered(published, size))
            received = [0]
            while received[-1] != published:
                received += numbers(await raw.read_payloads(1))
            received = received[1:]
            assert received == sorted(set(received))
            assert set(received) >= {*keyless, *newest.values()}
            assert client.missed == Missed(0, published - len(received))

    run(scenario())
