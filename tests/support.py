"""What tests of a running Hub share: connect to it, wait, fill a client's socket, register handlers."""

import asyncio
import contextlib
from contextlib import closing

from raw_client import RawClient
from reference import CLOSE, close_payload

from fastbcast import serve

KINDS = ("sync", "async")

POLICIES = ("evict", "skip", "latest", "conflate")

# A client that does not read is behind after some tens of KiB, and reads again what few frames the kernel took.
SMALL_BUFFERS = {"receive_buffer_bytes": 4096, "send_buffer_bytes": 8192}


async def until(condition):
    """Give the loop turns until `condition()` is true; the fixture `run` bounds it."""
    while not condition():
        await asyncio.sleep(0)


def subscribed(hub, channel, count=1):
    return until(lambda: hub.count_subscribers(channel) == count)


def client_of(hub, channel):
    return next(client for client in hub.clients() if client.channel == channel)


def server_of(client):
    """The Server that accepted `client`: the client itself knows only whom to tell that it is gone."""
    return client._on_gone.__self__


def numbered(number, size=10_000):
    """A message that says which one it is."""
    return b"%08d" % number + b"." * (size - 8)


def numbers(payloads):
    return [int(payload[:8]) for payload in payloads]


def check(hub):
    for channel in hub.channels():
        channel.check_invariants()


@contextlib.asynccontextmanager
async def raw_connections(hub, *paths, receive_buffer_bytes=None, **options):
    """Serve `hub` and connect to each path: gives a RawClient for each, no list if there is one path."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(hub, ssl=RawClient.server_tls, **options))
        raws = [
            stack.enter_context(closing(await RawClient.connect(server.port, path, receive_buffer_bytes)))
            for path in paths
        ]
        yield raws[0] if len(raws) == 1 else raws


@contextlib.asynccontextmanager
async def connections(hub, *paths, **options):
    """The same with the Client at the other end: gives (RawClient, Client) for each path."""
    async with raw_connections(hub, *paths, **options) as raws:
        clients = {client.remote_address: client for client in hub.clients()}
        pairs = [(raw, clients[raw.sock.getsockname()]) for raw in (raws if len(paths) != 1 else [raws])]
        yield pairs[0] if len(pairs) == 1 else pairs


async def send_until_it_stalls(raw, messages):
    """Send one after the other until nothing more is taken for many turns; returns what is left of the last one."""
    left, blocked_turns = memoryview(b""), 0
    while blocked_turns < 200:  # a server that reads takes some in each turn
        try:
            left = left or memoryview(next(messages))
            left = left[raw.sock.send(left) :]
            blocked_turns = 0
        except BlockingIOError:
            blocked_turns += 1
            await asyncio.sleep(0)
    return left


async def say_goodbye(raw):
    await raw.send_frame(CLOSE, close_payload(1000))
    return await raw.read_close()


async def fill(client, publish):
    """Publish until the kernel refuses more for `client`."""
    while not client.is_writing_paused:
        publish()
        await asyncio.sleep(0)


async def fall_behind(hub, channel, *clients, **options):
    """Publish numbered messages, from 1, until the sockets of `clients` are full; return how many that took."""
    count = 0
    while not all(client.is_writing_paused for client in clients):
        count += 1
        hub.publish(channel, numbered(count), **options)
        await asyncio.sleep(0)
    return count


async def publish_in_turns(hub, channel, first, last, **options):
    """Publish the messages numbered from `first` to `last`, each in a turn of its own, which is over at the end."""
    for number in range(first, last + 1):
        hub.publish(channel, numbered(number), **options)
        await end_turn()


async def end_turn():
    """Let the sweep of what was published until now run: it was scheduled before this."""
    await asyncio.sleep(0)


def read_some(raw, size):
    """Let `raw` take at most `size` bytes, if there are any; returns how many."""
    try:
        data = raw.sock.recv(size)
    except BlockingIOError:
        return 0
    raw.take(data)
    return len(data)


async def stall(hub, channel, size=16 * 1024):
    """Publish to `channel`, whose only client does not read, until the kernel refuses; return what was published."""
    published = []

    def publish():
        published.append(bytes([len(published) % 256]) * size)
        hub.publish(channel, published[-1])

    await fill(client_of(hub, channel), publish)
    return published


def register(hub, event, handler, kind):
    """Register `handler` as it is, or as a coroutine function that first lets the loop turn."""
    if kind == "sync":
        return getattr(hub, event)(handler)

    async def async_handler(*arguments):
        await asyncio.sleep(0)
        handler(*arguments)

    return getattr(hub, event)(async_handler)


def authorize_for_ever(hub):
    """Give `hub` a hook that never decides; return two events: it was called, it was cancelled."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    @hub.authorize
    async def wait_for_ever(request):
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    return entered, cancelled
