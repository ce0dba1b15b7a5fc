"""Settings: the options of a Hub, and what `configure` sets for the channels of a pattern."""

import asyncio
import gc

import pytest
from support import connections, fill

from fastbcast import Hub


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_lag": 1}, TypeError),
        ({"max_lag_bytes": "1"}, TypeError),
        ({"max_lag_bytes": 1.5}, TypeError),
        ({"max_lag_bytes": True}, TypeError),
        ({"max_lag_bytes": None}, TypeError),
        ({"max_lag_bytes": 0}, ValueError),
        ({"max_lag_bytes": -1}, ValueError),
        ({"max_lag_bytes": 2**63}, ValueError),
        ({"max_burst_bytes": -1}, ValueError),
        ({"max_unswept_bytes": 0}, ValueError),
        ({"coalesce_seconds": -0.1}, ValueError),
        ({"coalesce_seconds": float("nan")}, ValueError),
        ({"coalesce_seconds": float("inf")}, ValueError),
        ({"policy": "drop"}, ValueError),
        ({"policy": "Skip"}, ValueError),
        ({"policy": None}, ValueError),
        ({"policy": ["skip"]}, ValueError),
        ({"soft_lag_bytes": 0}, ValueError),
        ({"soft_lag_bytes": "1"}, TypeError),
        ({"soft_lag_seconds": 0}, ValueError),
        ({"soft_lag_seconds": -1}, ValueError),
        ({"soft_lag_seconds": float("nan")}, ValueError),
        ({"soft_lag_seconds": "10"}, TypeError),
        ({"max_messages_per_second": -1}, ValueError),
        ({"max_messages_per_second": float("nan")}, ValueError),
        ({"max_messages_per_second": float("inf")}, ValueError),
        ({"max_messages_per_second": None}, TypeError),
        ({"max_keys": 0}, ValueError),
        ({"max_keys": 1.5}, TypeError),
        ({"max_keys": True}, TypeError),
        ({"max_snapshot_bytes": 0}, ValueError),
        ({"max_snapshot_bytes": 1e6}, TypeError),
    ],
)
def test_a_bad_setting_raises_when_it_is_set(settings, error):
    hub = Hub()
    with pytest.raises(error, match=next(iter(settings))):
        hub.configure("*", **settings)
    hub.channel("any")  # and was not kept


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_messages_bytes": 1}, TypeError),
        ({"max_message_bytes": 0}, ValueError),
        ({"max_message_bytes": 1e6}, TypeError),
        ({"close_seconds": 0}, ValueError),
        ({"slice_seconds": 0}, ValueError),
        ({"max_inbox_messages": 0}, ValueError),
        ({"max_fragments": True}, TypeError),
        ({"max_fragments": 2**32}, ValueError),
        ({"stall_seconds": 0}, ValueError),
        ({"stall_seconds": -1}, ValueError),
        ({"stall_seconds": float("nan")}, ValueError),
        ({"stall_seconds": float("inf")}, ValueError),
        ({"stall_seconds": "60"}, TypeError),
        ({"max_log_bytes": 0}, ValueError),
        ({"max_log_bytes": 1e6}, TypeError),
        ({"max_pinned_bytes": -1}, ValueError),
        ({"max_pinned_bytes": None}, TypeError),
        ({"max_channels": 0}, ValueError),
        ({"max_channels": 2.5}, TypeError),
        ({"policy": "skip"}, TypeError),        # a channel's
    ],
)
def test_a_bad_option_of_the_hub_raises_at_once(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Hub(**options)


@pytest.mark.parametrize(
    "settings",
    [
        {"soft_lag_seconds": 1e12},     # "never"
        {"policy": "conflate", "max_messages_per_second": 1e-12},
        {"policy": "conflate", "max_messages_per_second": 1e12},
    ],
    ids=str,
)
def test_a_setting_that_is_taken_can_be_used(settings):
    hub = Hub()
    hub.configure("*", **settings)
    assert hub.channel("any").publish("hello") == 1


async def lag_at_eviction(hub, channel):
    """How far a client that never reads gets behind on `channel` before it is evicted, in messages."""
    async with connections(hub, f"/{channel}", receive_buffer_bytes=4096) as (_, client):
        await fill(client, lambda: hub.publish(channel, bytes(10_000)))
        behind = 0
        while client.is_open and behind < 50:
            hub.publish(channel, bytes(10_000))
            behind += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return behind


async def test_settings_hold_for_the_channels_that_the_pattern_matches():
    hub = Hub()
    hub.configure("strict.*", max_lag_bytes=1, max_burst_bytes=0)
    assert await lag_at_eviction(hub, "strict.prices") == 1
    assert await lag_at_eviction(hub, "strict") == 50  # never evicted
    assert await lag_at_eviction(hub, "STRICT.prices") == 50


async def test_of_several_patterns_the_later_wins_and_leaves_what_it_does_not_name():
    hub = Hub()
    hub.configure("a*", max_lag_bytes=1, max_burst_bytes=0)
    hub.configure("ab*", max_lag_bytes=200_000)  # max_burst_bytes stays 0
    hub.configure("abc", max_lag_bytes=1)
    assert await lag_at_eviction(hub, "a") == 1
    assert 15 < await lag_at_eviction(hub, "ab") < 25
    assert await lag_at_eviction(hub, "abc") == 1


async def test_a_channel_keeps_the_settings_it_was_made_with():
    hub = Hub()
    channel = hub.channel("prices")
    hub.configure("*", max_lag_bytes=1, max_burst_bytes=0)
    assert await lag_at_eviction(hub, "prices") == 50
    del channel
    gc.collect()
    assert await lag_at_eviction(hub, "prices") == 1  # made anew


async def test_a_channel_that_coalesces_sends_less_often_and_loses_nothing():
    hub = Hub()
    hub.configure("slow", coalesce_seconds=0.05)
    async with connections(hub, "/slow") as (raw, _):
        for number in range(10):
            hub.publish("slow", str(number))
            await asyncio.sleep(0)
        assert await raw.read_payloads(10) == [b"%d" % number for number in range(10)]
        assert hub.stats()["sends"] == 1


@pytest.mark.parametrize("policy", ["evict", "skip", "latest"])
async def test_a_limit_of_the_rate_conflates_whatever_the_policy(policy):
    hub = Hub()
    hub.configure("x", policy=policy, max_messages_per_second=10)
    async with connections(hub, "/x") as (raw, client):
        hub.publish("x", "at once", key="a")
        assert await raw.read_payloads(1) == [b"at once"]
        for number in range(5):
            hub.publish("x", str(number), key="a")
        assert await raw.read_payloads(1) == [b"4"]
        assert client.missed == (0, 4)
