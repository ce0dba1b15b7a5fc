"""What clients publish: compressed by their own libraries, inflated, and compressed once more for all (hub.relay)."""

import asyncio
from contextlib import closing

import aiohttp
import pytest
from deflate_client import DEFAULT_OFFER, DeflateClient
from deflate_feed import make_messages
from deflate_play import assert_same
from raw_client import serving
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from fastbcast import Hub

COUNT = 40


def messages_of(name):
    """Each says whose it is."""
    return [
        f"{name}/{message}" if isinstance(message, str) else name.encode() + b"/" + message
        for message in make_messages(name, COUNT - 1, 5000)
    ]


def is_from(name, message):
    return message.startswith(f"{name}/" if isinstance(message, str) else f"{name}/".encode())


class Talkers:
    """Each sends its messages, and takes those of all, its own too, until it has `total`."""

    def __init__(self, port, total):
        self.url = f"ws://127.0.0.1:{port}/chat"
        self.port = port
        self.total = total

    async def talk_by_websockets(self, name, **parameters):
        extension = ClientPerMessageDeflateFactory(**parameters)
        async with connect(self.url, extensions=[extension], compression=None, max_size=None) as connection:
            return await self.talk(name, connection.send, connection.recv)

    async def talk_by_aiohttp(self, name):
        async with aiohttp.ClientSession() as session, session.ws_connect(self.url, compress=15) as connection:

            def send(message):
                return (connection.send_str if isinstance(message, str) else connection.send_bytes)(message)

            async def receive():
                return (await connection.receive()).data

            return await self.talk(name, send, receive)

    async def talk_by_hand(self, name, offer, compression):
        with closing(await DeflateClient.connect(self.port, "/chat", offer=offer)) as client:

            async def receive():
                return (await client.read_messages(1))[0].payload

            received = await self.talk(name, client.send_message, receive)
            assert client.reader.forms["alone"] > 0
            assert (client.reader.forms["windowed"] > 0) is (compression == "window")
            return received

    async def talk(self, name, send, receive):
        self.left -= 1
        if self.left == 0:
            self.all_are_there.set()
        await self.all_are_there.wait()

        async def send_all():
            for message in messages_of(name):
                await send(message)

        sending = asyncio.ensure_future(send_all())
        received = [await receive() for _ in range(self.total)]
        await sending
        return received

    async def run(self, talks):
        self.left, self.all_are_there = len(talks), asyncio.Event()
        return await asyncio.gather(*talks)


@pytest.mark.parametrize("client_no_context_takeover", [True, False])
@pytest.mark.parametrize("compression", ["deflate", "window"])
async def test_everybody_gets_what_everybody_sends_in_one_order(compression, client_no_context_takeover):
    hub = Hub()
    hub.configure("*", reset_messages=8)
    hub.on_message(hub.relay)
    options = {"compression": compression, "client_no_context_takeover": client_no_context_takeover}
    async with serving(hub, **options) as server:
        talkers = Talkers(server.port, 6 * COUNT)
        everybody = await talkers.run([
            talkers.talk_by_websockets("a"),
            talkers.talk_by_websockets("b", client_no_context_takeover=True, client_max_window_bits=9),
            talkers.talk_by_websockets("c", server_no_context_takeover=True, server_max_window_bits=10),
            talkers.talk_by_aiohttp("d"),
            talkers.talk_by_hand("e", DEFAULT_OFFER, compression),
            talkers.talk_by_hand("f", "permessage-deflate; client_max_window_bits=10", compression),
        ])
    for received in everybody:
        assert_same(received, everybody[0], "one order")
    for name in "abcdef":
        assert_same([message for message in everybody[0] if is_from(name, message)], messages_of(name), name)
