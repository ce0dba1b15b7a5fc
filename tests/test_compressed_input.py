"""Clients that send compressed, over a real socket."""

import asyncio
import random
import zlib

import pytest
import websockets
from raw_client import RawClient, serving
from reference import BINARY, TEXT, client_frame
from support import client_of, say_goodbye, until
from test_inflate import MIB, Sender

from fastbcast import Hub

DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate"}


def texts_of(client, count):
    """What one of several clients sends: words that come again, of very different length."""
    chance = random.Random(client)
    words = [f"client {client} ", "price ä ", "size 😀 ", '{"bid": 1} ']
    return ["".join(chance.choices(words, k=chance.choice([0, 1, 5, 40, 4000]))) for _ in range(count)]


def collect(hub):
    """What each channel's client sends, by channel."""
    received = {}

    @hub.on_message
    def keep(client, message):
        received.setdefault(client.channel, []).append(message)

    return received


@pytest.mark.parametrize("client_no_context_takeover", [True, False])
async def test_what_python_websockets_compresses_arrives(client_no_context_takeover):
    sent = {f"{i}": texts_of(i, 30) for i in range(3)}

    async def send(port, channel):
        async with websockets.connect(f"ws://127.0.0.1:{port}/{channel}") as socket:
            for text in sent[channel]:
                await socket.send(text)
                await socket.send([text[: len(text) // 2], text[len(text) // 2 :]])     # in two fragments
                await socket.send(text.encode())

    hub = Hub()
    received = collect(hub)
    async with serving(
        hub, compression="deflate", client_no_context_takeover=client_no_context_takeover
    ) as server:
        await asyncio.gather(*(send(server.port, channel) for channel in sent))
    assert received == {
        channel: [form for text in texts for form in (text, text, text.encode())] for channel, texts in sent.items()
    }
    assert hub.stats()["received_compressed_messages"] == hub.stats()["received_messages"] == 3 * 30 * 3


def test_a_client_may_take_its_window_over_only_if_it_was_not_asked_not_to(run):
    async def scenario(client_no_context_takeover):
        hub, sender = Hub(), Sender(keeps_window=True)
        received = collect(hub)
        async with serving(
            hub, compression="deflate", client_no_context_takeover=client_no_context_takeover
        ) as server:
            raw = await RawClient.connect(server.port, "/a", **DEFLATE)
            for _ in range(2):
                await raw.send_frame(TEXT, sender.compress(b"the same words"), rsv=4)
            code, _ = await (raw.read_close() if client_no_context_takeover else say_goodbye(raw))
        return received["a"], code, dict(hub.stats()["disconnects"])

    assert run(scenario(False)) == (["the same words"] * 2, 1000, {"client": 1})
    assert run(scenario(True)) == (["the same words"], 1007, {"invalid_data": 1})


async def test_a_client_that_offers_nothing_may_not_send_compressed():
    hub = Hub()
    async with serving(hub, compression="deflate") as server:
        raw = await RawClient.connect(server.port, "/a")
        await raw.send_frame(TEXT, Sender(False).compress(b"text"), rsv=4)
        assert (await raw.read_close())[0] == 1002


def gigabyte_bomb():
    stream = zlib.compressobj(9, wbits=-15)
    eight_mib = stream.compress(bytes(8 * MIB)) + stream.flush(zlib.Z_FULL_FLUSH)   # stands alone: it may be repeated
    return eight_mib * 128


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize(("payload", "code", "cause"), [
    (gigabyte_bomb(), 1009, "message_too_big"),
    (Sender(False).compress(bytes(1001)), 1009, "message_too_big"),
    (b"garbage", 1007, "invalid_data"),
    (Sender(False).compress(b"cut off")[:-1], 1007, "invalid_data"),
    (Sender(False).compress(b"\xff"), 1007, "invalid_text"),
])
async def test_a_bad_message_closes_its_client_and_nobody_else(payload, code, cause, takeover):
    hub = Hub(max_message_bytes=MIB if len(payload) > 1000 else 1000)
    received = collect(hub)
    async with serving(hub, compression="deflate", client_no_context_takeover=not takeover) as server:
        good, bad = [await RawClient.connect(server.port, path, **DEFLATE) for path in ("/good", "/bad")]
        await bad.send_frame(TEXT if cause == "invalid_text" else BINARY, payload, rsv=4)
        assert (await bad.read_close())[0] == code
        await good.send_frame(TEXT, Sender(False).compress(b"good"), rsv=4)
        assert (await say_goodbye(good))[0] == 1000
    assert received == {"good": ["good"]}
    assert hub.stats()["disconnects"] == {cause: 1, "client": 1}
    assert hub.context.inflater.scratch.capacity <= 65536


@pytest.mark.parametrize(("size", "read_bytes"), [(1000, 65536), (MIB, 4096)])
async def test_a_client_whose_messages_become_very_large_is_read_little_by_little_from_then_on(size, read_bytes):
    hub = Hub()
    async with serving(hub, compression="deflate") as server:
        raw, received = await RawClient.connect(server.port, "/a", **DEFLATE), 0
        client = client_of(hub, "a")
        for sizes, bytes_of_next_read in [([5], 65536), ([size, size], read_bytes), ([5], read_bytes)]:
            payloads = [Sender(False).compress(bytes(size)) for size in sizes]
            await raw.send(b"".join(client_frame(BINARY, payload, rsv=4) for payload in payloads))
            received += len(payloads)
            await until(lambda: hub.stats()["received_messages"] == received)  # noqa: B023
            assert len(client.get_buffer(-1)) == bytes_of_next_read
