"""A channel is published to while clients join it at random moments, and some stop reading for a while.

A client takes messages until LAST, sends all of them back, each as it came (text or binary), and is closed with 1000.
So what comes back has been through the library's inflater, and through its deflater if it compresses: equal in order,
type and content to what the client was sent, or one of the two is wrong.
"""

import asyncio
import random

from deflate_feed import LAST, make_messages
from support import end_turn, until

from fastbcast import Hub

CHANNEL = "feed"
DIRECT = "direct "              # begins what is sent by `client.send`; no message of the channel begins so
MOST_BYTES = 5000
RESET_MESSAGES = 8              # small, so that there are many reset points
BOULDER_BYTES = 70_000          # no socket here takes it at once


class Play:
    """`join` and `publish` in turns, then `finish`. Each client connects to `path_of(name)`, which names it."""

    def __init__(self, seed, count, **channel_options):
        self.rng = random.Random(seed)
        self.unpublished = make_messages(seed, count, MOST_BYTES)[:-1]
        self.clients = {}       # by name
        self.changed = asyncio.Event()      # a client has come or gone
        self.sent = {}          # what each was sent of the channel, and what directly
        self.sent_directly = {}
        self.returned = {}
        self.hub = Hub()
        # Whoever stops reading gets everything once it goes on.
        patient = {"max_lag_bytes": 2**30, "soft_lag_bytes": 2**30, "max_burst_bytes": 2**30}
        self.hub.configure(CHANNEL, reset_messages=RESET_MESSAGES, **patient | channel_options)
        self.hub.authorize(lambda request: request.query)
        self.hub.on_connect(self.on_connect)
        self.hub.on_message(self.on_message)
        self.hub.on_disconnect(lambda client, disconnect: self.changed.set())

    @staticmethod
    def path_of(name):
        return f"/{CHANNEL}?{name}"

    def on_connect(self, client):
        name = client.identity
        self.clients[name] = client
        self.sent[name], self.sent_directly[name], self.returned[name] = [], [], []
        self.changed.set()

    def on_message(self, client, message):
        self.returned[client.identity].append(message)
        if message == LAST:
            client.close(1000)

    async def has_joined(self, name):
        while name not in self.clients:
            await self.next_change()

    async def next_change(self):
        self.changed.clear()
        await self.changed.wait()

    def publish(self, message):
        self.hub.publish(CHANNEL, message)
        for sent in self.sent.values():
            sent.append(message)

    async def publish_some(self, count):
        """Publish the next `count`, some of them in one turn, and send some clients something of their own."""
        messages, self.unpublished = self.unpublished[:count], self.unpublished[count:]
        for number, message in enumerate(messages):
            self.publish(message)
            if self.rng.random() < 0.1:
                self.send_directly(self.rng.choice(sorted(self.clients)), number)
            if self.rng.random() < 0.7:
                await end_turn()

    def send_directly(self, name, number):
        # As like the channel's messages as can be: what a window would take in.
        message = f"{DIRECT}{number} {self.sent[name][-1]}"
        message = message if self.rng.random() < 0.5 else message.encode()
        self.clients[name].send(message)
        self.sent_directly[name].append(message)

    async def fall_behind(self, name):
        """Publish what nobody takes at once; `name`, who does not read, is then behind."""
        self.publish(self.rng.randbytes(BOULDER_BYTES))
        await until(lambda: self.clients[name].is_writing_paused)

    async def finish(self):
        """Publish LAST, wait for all to send everything back, and compare."""
        self.publish(LAST)
        while any(self.hub.clients()):
            await self.next_change()
        for name, returned in self.returned.items():
            direct = [message for message in returned if is_direct(message)]
            assert_same([message for message in returned if not is_direct(message)], self.sent[name], name)
            assert_same(direct, self.sent_directly[name], name)


def is_direct(message):
    return message.startswith(DIRECT if isinstance(message, str) else DIRECT.encode())


def assert_same(received, sent, name):
    """The same messages in the same order; says where they differ, without printing megabytes."""
    for number, (one, other) in enumerate(zip(received, sent, strict=False)):
        assert type(one) is type(other), f"{name}: type of message {number}"
        assert len(one) == len(other), f"{name}: length of message {number}"
        assert one == other, f"{name}: message {number}, {other[:60]!r}"
    assert len(received) == len(sent), name

