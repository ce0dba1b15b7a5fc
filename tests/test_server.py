"""A server's life: where it listens, how it closes, and what servers of one hub share."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
from contextlib import closing

import pytest
import websockets
from conftest import missing
from raw_client import RawClient, handshake, serving
from reference import BINARY, CLOSE, PING, PONG, TEXT, Frame, client_frame
from support import subscribed, until

from fastbcast import Hub, serve
from fastbcast.http._handshake import Handshake


async def read_and_answer_close(client):
    """Read up to the CLOSE, answer it, and read to the end, where nothing may follow."""
    while True:
        (frame,) = await client.read_frames(1) or [None]
        if frame is None:
            return None, ""
        if frame.opcode == CLOSE:
            break
    with contextlib.suppress(ConnectionError):
        await client.send_frame(CLOSE, frame.payload[:2])
    assert await client.read_to_end() == []
    return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()


async def test_a_server_is_a_context_manager_that_closes_at_the_end():
    hub = Hub()
    async with serve(hub, "127.0.0.1", 0) as server:
        port = server.port
        assert port > 0
        assert [listener.getsockname() for listener in server.sockets] == [("127.0.0.1", port)]
        with closing(await RawClient.connect(port)) as client:
            await subscribed(hub, "default")
            await client.send_frame(CLOSE, b"\x03\xe8")
            assert await client.read_close() == (1000, "")
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(("127.0.0.1", port))
    await server.wait_closed()
    await server.close()  # again: nothing


async def test_a_server_may_be_awaited_and_closed_by_hand():
    server = await serve(Hub())
    with closing(await RawClient.connect(server.port)) as client:
        closing_server = asyncio.create_task(server.close())
        waiting = asyncio.create_task(server.wait_closed())
        code, _ = await read_and_answer_close(client)
        assert code == 1001
        await closing_server
        await waiting
    assert server.sockets == ()


async def test_what_is_sent_does_not_wait_for_more(monkeypatch):
    transports = []

    class Recording(Handshake):
        def connection_made(self, transport):
            transports.append(transport)
            super().connection_made(transport)

    monkeypatch.setattr("fastbcast.server.server.Handshake", Recording)

    async with serve(Hub()) as server:
        with closing(await RawClient.connect(server.port)):
            sock = transports[0].get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_serve_forever_closes_the_server_when_it_is_cancelled():
    server = await serve(Hub())
    serving = asyncio.create_task(server.serve_forever())
    with closing(await RawClient.connect(server.port)) as client:
        serving.cancel()
        assert (await read_and_answer_close(client))[0] == 1001
        with pytest.raises(asyncio.CancelledError):
            await serving
    await server.wait_closed()


async def test_close_tells_every_client_1001_and_waits_for_them():
    hub = Hub(close_seconds=20)
    ended = []
    hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
    server = await serve(hub)
    async with contextlib.AsyncExitStack() as stack:
        clients = [stack.enter_context(closing(await RawClient.connect(server.port, f"/{n}"))) for n in range(10)]
        await until(lambda: hub.stats()["clients"] == 10)
        closing_server = asyncio.create_task(server.close())
        for client in clients[1:]:
            assert await read_and_answer_close(client) == (1001, "going away")
        assert not closing_server.done()  # one has not answered yet
        assert await read_and_answer_close(clients[0]) == (1001, "going away")
        await closing_server
    assert len(ended) == 10
    assert set(ended) == {(1001, "going away", "server", "going_away")}
    assert hub.stats()["clients"] == 0
    assert hub.stats()["disconnects"] == {"going_away": 10}


async def test_close_takes_a_code_and_a_reason():
    server = await serve(Hub())
    with closing(await RawClient.connect(server.port)) as client:
        closing_server = asyncio.create_task(server.close(code=1012, reason="update"))
        assert await read_and_answer_close(client) == (1012, "update")
        await closing_server


async def test_close_aborts_who_does_not_answer_within_close_seconds():
    hub = Hub(close_seconds=0.05)
    async with contextlib.AsyncExitStack() as stack:
        async with serve(hub) as server:
            silent = stack.enter_context(closing(await RawClient.connect(server.port)))
            unread = stack.enter_context(
                closing(await RawClient.connect(server.port, "/big", receive_buffer_bytes=4096))
            )
            await until(lambda: hub.stats()["clients"] == 2)
            for _ in range(8):
                hub.publish("big", bytes(100_000))
            await until(lambda: any(client.is_writing_paused for client in hub.clients()))
        assert hub.stats()["clients"] == 0
        assert await silent.read_close() == (1001, "going away")
        assert [frame.opcode for frame in await unread.read_to_end() if frame.opcode != BINARY] == []


async def test_a_client_that_only_connects_does_not_keep_a_server_open():
    hub = Hub(close_seconds=60)
    server = await serve(hub, handshake_seconds=60)
    with closing(await RawClient.connect_tcp(server.port)) as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        await until(lambda: len(server.handshakes) == 1)
        await server.close()
        assert await client.receive() is False


async def test_a_client_that_has_just_connected_does_not_outlive_its_server():
    for turns in range(8):  # however far its way in was
        server = await serve(Hub(close_seconds=0.05))
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake())
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.close()
            while await client.receive():
                pass


async def test_a_port_in_use_is_an_oserror_and_leaves_nothing_bound():
    async with serve(Hub()) as server:
        with pytest.raises(OSError) as caught:  # noqa: PT011  (errno says which)
            await serve(Hub(), "127.0.0.1", server.port)
        assert caught.value.errno == errno.EADDRINUSE
        with closing(await RawClient.connect(server.port)):
            pass


@pytest.fixture
def ipv6():
    """The machine's IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        missing("this machine has no IPv6 loopback")


@pytest.mark.usefixtures("ipv6")
async def test_it_listens_on_ipv6():
    hub = Hub()
    async with serve(hub, "::1") as server:
        async with websockets.connect(f"ws://[::1]:{server.port}/prices") as client:
            hub.publish("prices", "hello")
            assert await client.recv() == "hello"
            (connected,) = hub.clients()
            assert connected.remote_address[0] == "::1"


@pytest.mark.usefixtures("ipv6")
async def test_without_a_host_it_listens_on_the_same_port_of_every_address():
    hub = Hub()
    async with serve(hub, None) as server:
        assert {listener.family for listener in server.sockets} == {socket.AF_INET, socket.AF_INET6}
        assert {listener.getsockname()[1] for listener in server.sockets} == {server.port}
        async with websockets.connect(f"ws://[::1]:{server.port}/") as one:
            async with websockets.connect(f"ws://127.0.0.1:{server.port}/") as other:
                hub.publish("default", "hello")
                assert [await one.recv(), await other.recv()] == ["hello", "hello"]


async def test_two_servers_share_a_hub_and_closing_one_leaves_the_other_alone():
    hub = Hub()
    first, second = await serve(hub), await serve(hub)
    with closing(await RawClient.connect(first.port, "/prices")) as leaving:
        with closing(await RawClient.connect(second.port, "/prices")) as staying:
            hub.publish("prices", "to both")
            assert await leaving.read_payloads(1) == await staying.read_payloads(1) == [b"to both"]
            closing_first = asyncio.create_task(first.close())
            assert (await read_and_answer_close(leaving))[0] == 1001
            await closing_first
            hub.publish("prices", "to one")
            assert await staying.read_payloads(1) == [b"to one"]
            closing_second = asyncio.create_task(second.close())
            assert (await read_and_answer_close(staying))[0] == 1001
            await closing_second


async def test_closing_one_server_leaves_the_handlers_of_the_others_clients_at_work():
    hub = Hub(close_seconds=0.05)
    at_work, go_on, handled = asyncio.Event(), asyncio.Event(), []

    @hub.on_message
    async def work(client, message):
        at_work.set()
        await go_on.wait()
        handled.append(message)

    first, second = await serve(hub), await serve(hub)
    with closing(await RawClient.connect(second.port)) as client:
        await client.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two"))
        await at_work.wait()
        await first.close()
        go_on.set()
        await client.send_frame(TEXT, b"three")
        await client.send_frame(PING, b"?")
        assert await client.read_frames(1) == [Frame(PONG, b"?")]
        await until(lambda: "three" in handled)
        assert handled == ["one", "two", "three"]
        closing_second = asyncio.create_task(second.close())
        assert (await read_and_answer_close(client))[0] == 1001
        await closing_second


def test_a_hub_belongs_to_one_loop_for_good():
    """The clients of a loop that has gone would leave their descriptors' numbers in the channels."""
    hub = Hub()

    async def serve_once():
        async with serve(hub) as server:
            with closing(await RawClient.connect(server.port)) as client:
                hub.publish("default", "hello")
                assert await client.read_payloads(1) == [b"hello"]

    asyncio.run(serve_once())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(serve_once())


async def test_close_refuses_a_code_that_may_not_be_sent_and_closes_nothing():
    hub = Hub()
    async with serving(hub) as server:
        client = await RawClient.connect(server.port)
        with pytest.raises(ValueError, match="99"):
            await server.close(code=99)
        hub.publish("default", "still here")
        assert await client.read_payloads(1) == [b"still here"]
        await RawClient.connect(server.port)


@pytest.mark.parametrize("turns", range(6))
async def test_close_while_connections_are_being_accepted_leaves_no_door(turns):
    server = await serve(Hub(), handshake_seconds=0.05)
    clients = [await RawClient.connect_tcp(server.port) for _ in range(5)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await server.close()
    await until(lambda: not server.handshakes)
    for client in clients:
        assert not await client.receive()


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_close_that_is_cancelled_cuts_off_who_is_left(turns):
    hub = Hub(close_seconds=1000)
    server = await serve(hub, handshake_seconds=1000)
    client = await RawClient.connect(server.port)
    half_open = await RawClient.connect_tcp(server.port)
    await until(lambda: server.stats()["handshakes"] == 1)
    one_more = await RawClient.connect_tcp(server.port)
    for _ in range(2):      # until it is accepted, and being opened
        await asyncio.sleep(0)
    end = asyncio.ensure_future(server.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    end.cancel()
    await asyncio.wait([end])
    assert end.cancelled()
    await server.wait_closed()
    await client.read_to_end()
    assert not await half_open.receive()
    assert not await one_more.receive()
    assert server.stats()["connections"] == hub.stats()["clients"] == 0


async def test_close_may_be_awaited_by_a_handler():
    hub = Hub(close_seconds=0.2)

    @hub.on_message
    async def _(client, message):
        await server.close()

    server = await serve(hub)
    with closing(await RawClient.connect(server.port)) as client:
        await client.send_frame(TEXT, b"please close")
        assert (await read_and_answer_close(client))[0] == 1001
        await server.wait_closed()


async def test_close_waits_for_the_on_disconnect_of_a_handler_that_it_had_to_cancel():
    hub = Hub(close_seconds=0.1)
    log = []

    @hub.on_message
    async def _(client, message):
        log.append("at work")
        await asyncio.Event().wait()

    @hub.on_disconnect
    async def _(client, disconnect):
        await asyncio.sleep(0)
        log.append("told")

    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send_frame(TEXT, b"work")
            await until(lambda: log)
            closing_server = asyncio.create_task(server.close())
            assert (await read_and_answer_close(client))[0] == 1001
            await closing_server
            assert log == ["at work", "told"]


def accepted_socket(client):
    """The server's end of a RawClient's connection: all descriptors of this process are searched for it."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=os.dup(int(name)))
            with contextlib.suppress(OSError):
                if sock.getpeername() == client.sock.getsockname():
                    return sock
            sock.close()
    raise AssertionError("no such connection")


@pytest.mark.parametrize("send_buffer_bytes", [0, 16 * 1024, 128 * 1024])
@pytest.mark.parametrize("notsent_lowat_bytes", [0, 4 * 1024, None])
async def test_the_buffers_of_an_accepted_socket_are_as_asked_for(send_buffer_bytes, notsent_lowat_bytes):
    tcp_notsent_lowat = {"linux": 25, "darwin": 0x201}[sys.platform]
    options = {} if notsent_lowat_bytes is None else {"notsent_lowat_bytes": notsent_lowat_bytes}

    async with serving(Hub(), send_buffer_bytes=send_buffer_bytes, **options) as server:
        client = await RawClient.connect(server.port)
        with accepted_socket(client) as accepted, socket.socket() as plain:
            kernels_own = plain.getsockopt(socket.IPPROTO_TCP, tcp_notsent_lowat)
            lowat = accepted.getsockopt(socket.IPPROTO_TCP, tcp_notsent_lowat)
            assert lowat == {0: kernels_own, None: 64 * 1024}.get(notsent_lowat_bytes, notsent_lowat_bytes)
            send_buffer = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            if send_buffer_bytes:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
                assert send_buffer == plain.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)  # Linux doubles it
            else:  # the kernel gives more to a connection that is there
                assert send_buffer >= plain.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


@pytest.mark.parametrize("name", ["send_buffer_bytes", "notsent_lowat_bytes"])
@pytest.mark.parametrize("value", [-1, 2**40, "4096"])
def test_a_buffer_that_cannot_be_raises_when_it_is_asked_for(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        serve(Hub(), **{name: value})
