"""The bounded inbox: a client whose handler is busy is held back, and nothing is lost."""

import asyncio

import pytest
from reference import BINARY, CLOSE, TEXT, client_frame, close_payload, encode_frame
from support import raw_connections, say_goodbye, send_until_it_stalls, until

from fastbcast import Hub

MESSAGE_BYTES = 65536

# The mask is zero, so that making big messages is quick.
HEADER = encode_frame(BINARY, bytes(MESSAGE_BYTES), mask=bytes(4))[:14]


def big_messages(sent):
    """Numbered; `sent` gets the number of each."""
    for number in range(1024):
        sent.append(number)
        yield HEADER + number.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4)
    pytest.fail("64 MiB were read while the handler was busy")


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"max_inbox_messages": 1, "max_message_bytes": 64 * MESSAGE_BYTES}, 1 + 1),    # the one at work is not in it
        ({"max_inbox_messages": 2, "max_message_bytes": 64 * MESSAGE_BYTES}, 1 + 2),
        ({"max_inbox_messages": 32, "max_message_bytes": 64 * MESSAGE_BYTES}, 1 + 32),
        ({"max_message_bytes": 4 * MESSAGE_BYTES}, 1 + 4),  # large ones fill it before there are many
    ],
)
async def test_a_full_inbox_holds_the_peer_back_and_nothing_is_lost(options, received):
    hub = Hub(**options)
    go_on, handled = asyncio.Event(), []

    @hub.on_message
    async def work(client, message):
        await go_on.wait()
        handled.append(int.from_bytes(message[:4], "big"))

    async with raw_connections(hub, "/") as raw:
        sent = []
        left = await send_until_it_stalls(raw, big_messages(sent))
        assert hub.stats()["received_messages"] == received
        assert hub.stats()["inbox_pauses"] == 1
        go_on.set()
        await raw.send(left)
        await raw.send(HEADER + len(sent).to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4))
        await until(lambda: len(handled) == len(sent) + 1)
        assert handled == list(range(len(sent) + 1))
        assert await say_goodbye(raw) == (1000, "")


async def test_a_client_that_is_held_back_still_gets_what_is_published_and_may_be_closed():
    hub = Hub(max_inbox_messages=1, close_seconds=20)
    go_on, told = asyncio.Event(), []

    @hub.on_message
    async def work(client, message):
        await go_on.wait()

    hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
    async with raw_connections(hub, "/") as raw:
        left = await send_until_it_stalls(raw, big_messages([]))
        hub.publish("default", "hello")
        assert await raw.read_payloads(1) == [b"hello"]
        (client,) = hub.clients()
        client.close(4000)
        await raw.send(bytes(left))  # it is read again: the answer to the CLOSE is behind all this
        await raw.send_frame(CLOSE, close_payload(4000))
        assert await raw.read_close() == (4000, "")
        assert told == []
        go_on.set()
        await until(lambda: told)
        assert told == ["application"]


async def test_an_inbox_that_gives_out_small_messages_takes_no_large_ones_for_them():
    hub = Hub(max_message_bytes=1000)
    sizes, handled = [], []

    @hub.on_message
    async def work(client, message):
        for _ in range(5):
            await asyncio.sleep(0)
            sizes.append(client._inbox.size)
        handled.append(len(message))

    async with raw_connections(hub, "/") as raw:
        sent = [1] * 10 + [1000] * 10
        await raw.send(b"".join(client_frame(BINARY, bytes(size)) for size in sent))
        await until(lambda: len(handled) == len(sent))
        assert handled == sent
        assert 1000 < max(sizes) < 2000


async def test_many_small_messages_of_one_read_wait_for_their_place_and_none_is_lost():
    hub = Hub(max_inbox_messages=4)
    handled = []

    @hub.on_message
    async def work(client, message):
        await asyncio.sleep(0)
        assert len(client._inbox.events) <= 4
        if len(handled) > 15_000:   # who was held back is read in pieces of 4 KiB
            assert hub.partials.total_bytes <= 4096
        handled.append(int(message))

    async with raw_connections(hub, "/") as raw:
        await raw.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(20_000)))
        await until(lambda: len(handled) == 20_000)
        assert handled == list(range(20_000))
