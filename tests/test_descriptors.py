"""When file descriptors run out."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from contextlib import closing

from raw_client import RawClient, handshake
from support import until

from fastbcast import Hub, serve
from fastbcast.server import acceptor


@contextlib.contextmanager
def descriptor_limit():
    """Lower the soft limit to a little more than is open; it is what it was at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(name) for name in os.listdir("/dev/fd")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def use_up_descriptors():
    opened = []
    while True:
        try:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
            return opened


def test_when_descriptors_run_out_accepting_pauses_with_one_warning_and_goes_on_later(run, caplog):
    def warnings():
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    async def scenario():
        hub = Hub()
        loop = asyncio.get_running_loop()
        async with serve(hub) as server:
            async with contextlib.AsyncExitStack() as stack:
                existing = stack.enter_context(closing(await RawClient.connect(server.port)))
                waiting = []
                for _ in range(3):
                    sock = stack.enter_context(socket.socket())
                    sock.setblocking(False)
                    waiting.append(RawClient(sock))
                stack.enter_context(descriptor_limit())
                spare = use_up_descriptors()
                stack.callback(lambda: [os.close(fd) for fd in spare])
                for client in waiting:
                    await loop.sock_connect(client.sock, ("127.0.0.1", server.port))
                    await client.send(handshake())
                await until(warnings)
                hub.publish("default", "while paused")
                assert await existing.read_payloads(1) == [b"while paused"]
                assert hub.stats()["clients"] == 1
                # One descriptor: one gets in, and the next try, for the second, meets the shortage again.
                os.close(spare.pop())
                assert (await waiting[0].read_head()).startswith("HTTP/1.1 101 ")
                hub.publish("default", "while paused again")
                assert await existing.read_payloads(1) == [b"while paused again"]
                assert hub.stats()["clients"] == 2
                while spare:
                    os.close(spare.pop())
                for client in waiting[1:]:
                    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
                hub.publish("default", "to all")
                for client in (existing, *waiting[1:]):
                    assert await client.read_payloads(1) == [b"to all"]
                assert await waiting[0].read_payloads(2) == [b"while paused again", b"to all"]
                assert warnings() == ['accept_paused reason="Too many open files"']

    with caplog.at_level(logging.INFO):
        run(scenario())


def test_the_descriptor_of_a_client_that_is_gone_is_closed_once(run, monkeypatch):
    """A second time it might be another thread's file."""
    closed = []

    class Watched(acceptor.Accepted):
        def detach(self):
            closed.append("by the loop")
            return super().detach()

        def close(self):
            if self.fileno() >= 0:
                os.fstat(self.fileno())
                closed.append("by the socket")
            super().close()

    monkeypatch.setattr(acceptor, "Accepted", Watched)

    async def scenario():
        async with serve(Hub()) as server:
            with closing(await RawClient.connect(server.port)):
                pass
            await until(lambda: not server.hub.stats()["clients"] and closed)

    run(scenario())
    assert len(closed) == 1
