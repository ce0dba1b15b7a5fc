"""Messages that clients begin and do not end: what all of them take together has a bound."""

from contextlib import closing

import pytest
from raw_client import RawClient, serving
from reference import BINARY, TEXT, client_frame
from support import client_of, connections, until

from fastbcast import Hub

KIB = 1024


def begun(size, opcode=BINARY):
    """The beginning of a message of at most 64 KiB: so many bytes of its payload."""
    return client_frame(opcode, b"x" * (64 * KIB))[: 14 + size]


async def test_above_the_bound_it_is_the_oldest_that_is_closed():
    hub = Hub(max_message_bytes=64 * KIB, max_partial_bytes=100 * KIB)
    async with connections(hub, "/first", "/second", "/third") as pairs:
        (first, _), (second, _), (third, _) = pairs
        for raw, held in ((first, 40), (second, 80)):
            await raw.send(begun(40 * KIB))
            await until(lambda held=held: hub.stats()["partial_bytes"] >= held * KIB)
        await third.send(begun(40 * KIB))
        assert await first.read_close() == (1013, "too many unfinished messages")
        first.close()
        await until(lambda: hub.stats()["disconnects"] == {"partial_full": 1})
        assert 80 * KIB <= hub.stats()["partial_bytes"] <= 81 * KIB
        assert client_of(hub, "second").is_open
        assert client_of(hub, "third").is_open


async def test_what_is_whole_or_gone_is_not_counted_any_more():
    hub = Hub(max_message_bytes=64 * KIB)
    received = []
    hub.on_message(lambda client, message: received.append(message))
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            frame = client_frame(TEXT, b"y" * (40 * KIB))
            await client.send(frame[:30_000])
            await until(lambda: hub.stats()["partial_bytes"] > 29_000)
            await client.send(frame[30_000:])
            await until(lambda: received)
            assert hub.stats()["partial_bytes"] == 0
            await client.send(begun(1000))
            await until(lambda: hub.stats()["partial_bytes"] > 0)
        await until(lambda: hub.stats()["clients"] == 0)
        assert hub.stats()["partial_bytes"] == 0


async def test_one_message_may_always_be_as_large_as_max_message_bytes():
    hub = Hub(max_message_bytes=64 * KIB, max_partial_bytes=1)
    received = []
    hub.on_message(lambda client, message: received.append(len(message)))
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            frame = client_frame(BINARY, b"z" * (64 * KIB))
            await client.send(frame[:-1])
            await until(lambda: hub.stats()["partial_bytes"] == 64 * KIB - 1)
            await client.send(frame[-1:])
            await until(lambda: received == [64 * KIB])


@pytest.mark.parametrize("rest", [b"", client_frame(BINARY, b"late")], ids=["nothing", "a frame"])
async def test_a_client_that_was_closed_for_it_keeps_nothing(rest):
    hub = Hub(max_message_bytes=64 * KIB, max_partial_bytes=64 * KIB, close_seconds=600)
    received = []
    hub.on_message(lambda client, message: received.append(message))
    async with connections(hub, "/first", "/second") as ((first, _), (second, _)):
        await first.send(begun(40 * KIB))
        await until(lambda: hub.stats()["partial_bytes"] >= 40 * KIB - 14)
        await second.send(begun(40 * KIB))
        assert (await first.read_close())[0] == 1013
        await first.send(begun(20 * KIB) + rest)
        first.close()
        await until(lambda: hub.stats()["clients"] == 1)
        assert hub.stats()["partial_bytes"] <= 40 * KIB
        assert received == []
