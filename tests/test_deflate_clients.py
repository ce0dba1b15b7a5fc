"""permessage-deflate with clients that nobody here wrote, each byte compared: websockets, aiohttp, Node ws, Chromium.

Each connects through a Tap, which reads along and says in which form the server sent each message. The clients of a
test share a channel: they join it at random moments, some stop reading for a while, and in the end each sends back all
that it got (see deflate_play.py).
"""

import asyncio
import itertools
import json
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from conftest import MILLISECONDS, seconds
from deflate_feed import LAST
from deflate_play import Play, assert_same, is_direct
from raw_client import serving
from tap import tapping
from test_deflate_window import WINDOW_BITS
from test_foreign_clients import NODE, node  # noqa: F401  (a fixture)
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from fastbcast.testing import BroadcastServer

BITS = range(9, 16)
SERVERS = [("deflate", True), ("window", True), ("window", False)]
PING = "are you there?"
# The server meets both event loops in test_deflate_window.py, and with aiohttp.
on_uvloop = pytest.mark.parametrize("run", ["uvloop"], indirect=True)


def check_forms(play, tap, compression):
    """What the Tap has seen of each connection is what was sent, and in the forms that were negotiated."""
    windowed = 0
    for connection in tap.connections:
        name = connection.path.partition("?")[2]
        reader, messages = connection.read()
        direct = [message for message in messages if is_direct(message.payload)]
        assert {message.form for message in direct} <= {"plain"}
        others = [message.payload for message in messages if not is_direct(message.payload)]
        assert_same(others, play.sent[name], name)
        parameters = reader.parameters
        assert parameters is not None, name
        assert reader.forms["alone"] > 0, name
        may_window = not parameters.server_no_context_takeover and parameters.server_max_window_bits >= WINDOW_BITS
        assert (reader.forms["windowed"] > 0) is (compression == "window" and may_window), name
        windowed += may_window
    assert windowed > 0


async def play_with(connect_client, offers, compression, client_no_context_takeover):
    """`connect_client(url, name, offer)` gives a task; see Play for what the client does."""
    play = Play(1, 8 * len(offers))
    async with serving(
        play.hub, compression=compression, client_no_context_takeover=client_no_context_takeover,
        send_buffer_bytes=8192, ping_seconds=0.05,
    ) as server, tapping(server.port) as tap:
        tasks, stopped = [], []
        for number, offer in enumerate(offers):
            name = str(number)
            tasks.append(asyncio.ensure_future(connect_client(f"ws://127.0.0.1:{tap.port}{play.path_of(name)}", offer)))
            await has_joined(play, name, tasks[-1])
            await play.publish_some(7)
            if number % 8 == 1:
                stopped.append(tap.find(play.path_of(name)))
                stopped[-1].stop()
                await play.fall_behind(name)
            elif number % 8 == 3:
                stopped.pop().go_on()
        for connection in stopped:
            connection.go_on()
        await play.publish_some(len(play.unpublished))
        await until_pinged(play)
        await play.finish()
        await asyncio.gather(*tasks)
        check_forms(play, tap, compression)


async def has_joined(play, name, task):
    """Wait for the client that is run by `task`; raises what that raises."""
    joining = asyncio.ensure_future(play.has_joined(name))
    await asyncio.wait({joining, task}, return_when=asyncio.FIRST_COMPLETED)
    if not joining.done():
        joining.cancel()
        raise AssertionError(f"client {name} has ended") from task.exception()


async def until_pinged(play):
    while play.hub.stats()["pings"] == 0:
        await asyncio.sleep(0)


# Python websockets.


def websockets_offers():
    """The default one, and odd parameters: flags, and window bits of either side."""
    yield None
    for server_no_context_takeover, client_no_context_takeover in itertools.product([False, True], repeat=2):
        yield ClientPerMessageDeflateFactory(
            server_no_context_takeover=server_no_context_takeover,
            client_no_context_takeover=client_no_context_takeover,
        )
    for bits in BITS:
        yield ClientPerMessageDeflateFactory(server_max_window_bits=bits)
        yield ClientPerMessageDeflateFactory(client_max_window_bits=bits)
        yield ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=24 - bits)


async def be_websockets_client(url, factory):
    options = {} if factory is None else {"extensions": [factory], "compression": None}
    async with connect(url, max_size=None, **options) as connection:
        taken = []
        while not taken or taken[-1] != LAST:
            taken.append(await connection.recv())
        await (await connection.ping(PING))
        for message in taken:
            await connection.send(message)
        with pytest.raises(ConnectionClosedOK):
            await connection.recv()


@on_uvloop
@pytest.mark.parametrize(("compression", "client_no_context_takeover"), SERVERS)
def test_python_websockets(run, compression, client_no_context_takeover):
    run(play_with(be_websockets_client, list(websockets_offers()), compression, client_no_context_takeover))


# aiohttp, whose only parameter is the window of the server.


@pytest.mark.parametrize(("compression", "client_no_context_takeover"), SERVERS)
async def test_aiohttp(compression, client_no_context_takeover):
    async with aiohttp.ClientSession() as session:

        async def be_aiohttp_client(url, bits):
            async with session.ws_connect(url, compress=bits, max_msg_size=0) as connection:
                taken = []
                while not taken or taken[-1] != LAST:
                    message = await connection.receive()
                    assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
                    taken.append(message.data)
                await connection.ping()
                for message in taken:
                    await (connection.send_str if isinstance(message, str) else connection.send_bytes)(message)
                assert (await connection.receive()).type == aiohttp.WSMsgType.CLOSE
                assert connection.close_code == 1000

        await play_with(be_aiohttp_client, [*BITS], compression, client_no_context_takeover)


# Node ws: all its clients are in one process.


# Not False: ws then fails a connection whose server asks for it, as it may (RFC 7692 section 7.1.1.2).
NODE_FLAGS = [
    {},
    {"serverNoContextTakeover": True},
    {"clientNoContextTakeover": True},
    {"serverNoContextTakeover": True, "clientNoContextTakeover": True},
]


def node_offers():
    yield {"perMessageDeflate": True}
    for flags in NODE_FLAGS:
        yield {"perMessageDeflate": {**flags, "threshold": 0}}
    for bits in BITS:
        yield {"perMessageDeflate": {"serverMaxWindowBits": bits, "threshold": 0}}
        yield {"perMessageDeflate": {"clientMaxWindowBits": bits, "threshold": 0}}
        yield {"perMessageDeflate": {"serverMaxWindowBits": bits, "clientMaxWindowBits": 24 - bits, "threshold": 0}}


class NodeClients:
    def __init__(self, process):
        self.process = process
        self.results = {}       # url -> future
        self.reading = asyncio.ensure_future(self.read())

    async def read(self):
        while line := await self.process.stdout.readline():
            result = json.loads(line)
            self.results.pop(result["url"]).set_result(result)
        for waiting in self.results.values():
            waiting.set_exception(EOFError("node has ended"))

    async def be_client(self, url, options):
        waiting = self.results[url] = asyncio.get_running_loop().create_future()
        command = json.dumps({"url": url, "last": LAST, "options": options})
        self.process.stdin.write(command.encode() + b"\n")
        result = await waiting
        assert "permessage-deflate" in result["extensions"]
        assert (result["code"], result["pong"]) == (1000, PING)


@asynccontextmanager
async def node_clients(program):
    process = await asyncio.create_subprocess_exec(
        program, str(NODE / "return_all.js"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    clients = NodeClients(process)
    try:
        yield clients
        process.stdin.close()
        assert await process.wait() == 0
        await clients.reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@on_uvloop
@pytest.mark.parametrize(("compression", "client_no_context_takeover"), SERVERS)
async def test_node_ws(node, compression, client_no_context_takeover):  # noqa: F811
    async with node_clients(node) as clients:
        await play_with(clients.be_client, list(node_offers()), compression, client_no_context_takeover)


# Chromium, whose offer cannot be chosen.


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(seconds(20) * MILLISECONDS)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize(("compression", "client_no_context_takeover"), SERVERS)
def test_chromium(page, compression, client_no_context_takeover):
    play = Play(2, 200)
    names = ["0", "1", "2", "3"]
    with BroadcastServer(play.hub, compression=compression, client_no_context_takeover=client_no_context_takeover,
                         send_buffer_bytes=8192) as server:
        stack = AsyncExitStack()
        tap = server.call(stack.enter_async_context, tapping(server.port))
        page.add_script_tag(path=NODE / "return_all.js")
        page.evaluate("window.results = []")
        for name in names:
            url = f"ws://127.0.0.1:{tap.port}{play.path_of(name)}"
            page.evaluate("([url, last]) => { results.push(returnAll(WebSocket, url, last)); }", [url, LAST])
            server.call(play.has_joined, name)
            server.call(play.publish_some, 30)
        connection = tap.find(play.path_of("1"))
        server.call(connection.stop)
        server.call(play.fall_behind, "1")
        server.call(play.publish_some, 30)
        server.call(connection.go_on)
        server.call(play.publish_some, len(play.unpublished))
        server.call(play.finish)
        for result in page.evaluate("Promise.all(results)"):
            assert (result["code"], result["extensions"].partition(";")[0]) == (1000, "permessage-deflate")
        server.call(check_forms, play, tap, compression)
        server.call(stack.aclose)
