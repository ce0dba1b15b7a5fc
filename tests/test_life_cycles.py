"""What is started, closed or drained twice: the second time is refused or waits, and the first is unharmed."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from contextlib import closing

import pytest
from conftest import LOOPS, seconds
from raw_client import RawClient
from reference import CLOSE, TEXT, client_frame, close_payload
from support import raw_connections, say_goodbye, server_of, until
from test_cli import SilentClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fastbcast import Hub, serve
from fastbcast.testing import BroadcastServer
from fastbcast.testing.fleet import Fleet


async def check_it_serves(hub, server):
    with closing(await RawClient.connect(server.port)) as client:
        hub.publish("default", "hello")
        assert await client.read_payloads(1) == [b"hello"]
        assert await say_goodbye(client) == (1000, "")


async def enter(serving):
    async with serving:
        raise AssertionError("it was entered again")


async def start(serving):
    await serving


AGAIN = {"enter": enter, "await": start}


def open_descriptors():
    return set(os.listdir("/dev/fd"))


@pytest.mark.parametrize("again", AGAIN)
async def test_what_serve_returns_is_refused_the_second_time_while_the_first_goes_on(again):
    hub = Hub()
    for begin in ("await", "enter"):
        serving = serve(hub)
        server = await serving if begin == "await" else await serving.__aenter__()
        before = open_descriptors()
        with pytest.raises(RuntimeError, match=r"call serve\(\.\.\.\) again"):
            await AGAIN[again](serving)
        assert open_descriptors() == before
        await check_it_serves(hub, server)
        await server.close()
        with pytest.raises(RuntimeError, match=r"call serve\(\.\.\.\) again"):
            await AGAIN[again](serving)
    async with serve(hub) as server:
        await check_it_serves(hub, server)


async def test_of_two_that_start_a_server_at_once_one_is_refused():
    hub = Hub()
    serving = serve(hub, "localhost")
    results = await asyncio.gather(start(serving), start(serving), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RuntimeError]
    await serving.__aexit__(None, None, None)


async def test_a_server_whose_address_was_taken_may_be_started_again():
    hub = Hub()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serving = serve(hub, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await serving
    async with serving as server:
        await check_it_serves(hub, server)


async def test_a_socket_file_stays_the_first_ones_when_the_second_start_is_refused(tmp_path):
    hub = Hub()
    path = str(tmp_path / "socket")
    serving = serve(hub, uds=path)
    async with serving:
        with pytest.raises(RuntimeError):
            await serving
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")
        writer.close()
        await writer.wait_closed()
    assert not os.path.exists(path)


async def test_a_socket_that_a_server_listens_on_is_refused_to_another():
    hub = Hub()
    sock = socket.create_server(("127.0.0.1", 0))
    async with serve(hub, sock=sock) as server:
        with pytest.raises(RuntimeError, match="a server listens on this socket already"):
            await serve(hub, sock=[sock])
        await check_it_serves(hub, server)
    assert sock.fileno() == -1


def test_a_hub_of_another_loop_is_refused_before_anything_is_bound():
    hub = Hub()

    async def scenario():
        async with serve(hub):
            pass

    async def refused(path):
        with pytest.raises(RuntimeError, match="another event loop"):
            await serve(hub, uds=path)
        assert not os.path.exists(path)

    asyncio.run(scenario())
    asyncio.run(refused("never-made"))


@pytest.mark.parametrize("end", ["close", "drain"])
async def test_two_that_end_a_server_at_once_both_wait_until_the_clients_are_gone(end):
    hub = Hub()
    async with raw_connections(hub, "/") as raw:
        (client,) = hub.clients()
        server = server_of(client)

        def begin():
            return asyncio.create_task(server.close() if end == "close" else server.drain(0.05))

        first = begin()
        assert (await raw.read_to_close())[0].payload[:2] == close_payload(1001 if end == "close" else 1012)
        second = begin()
        closing_too = asyncio.create_task(server.close())
        for _ in range(10):
            await asyncio.sleep(0)
        assert [end.done() for end in (first, second, closing_too)] == [False] * 3
        await raw.send_frame(CLOSE, close_payload(1001))
        await asyncio.gather(first, second, closing_too)
        assert server.sockets == ()
        assert hub.stats()["clients"] == 0
        assert hub.stats()["disconnects"] == {"going_away": 1}


async def test_a_drain_that_is_cancelled_may_be_begun_again():
    server = await serve(Hub())
    with closing(await RawClient.connect_tcp(server.port)) as undecided:
        await until(lambda: server.stats()["handshakes"])
        first, second = (asyncio.create_task(server.drain(over)) for over in (3600, 0))
        await until(lambda: not server.sockets)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert await undecided.read_to_end() == []


async def test_a_server_that_was_never_started_may_be_closed_and_then_started():
    hub = Hub()
    serving = serve(hub)
    await serving.__aexit__(None, None, None)
    async with serving as server:
        await check_it_serves(hub, server)


async def test_a_socket_that_does_not_listen_is_refused():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="does not listen"):
            await serve(Hub(), sock=sock)


async def test_a_server_whose_listening_socket_the_application_has_closed_closes_its_clients_all_the_same():
    hub = Hub()
    async with raw_connections(hub, "/") as raw:
        (client,) = hub.clients()
        asyncio.get_running_loop().remove_reader(server_of(client).sockets[0].fileno())
        server_of(client).sockets[0].close()
        closing_server = asyncio.create_task(server_of(client).close())
        assert await raw.read_close() == (1001, "going away")
        await raw.send_frame(CLOSE, close_payload(1001))
        await closing_server


async def test_a_server_that_does_not_listen_has_no_port():
    server = await serve(Hub())
    await server.close()
    with pytest.raises(RuntimeError, match="does not listen"):
        server.port  # noqa: B018


async def test_a_code_that_may_not_be_sent_is_refused_whether_the_client_is_there_or_gone():
    hub = Hub()
    async with raw_connections(hub, "/") as raw:
        (client,) = hub.clients()
        for _ in range(2):
            with pytest.raises(ValueError, match="99999"):
                client.close(99999)
            if client.disconnected is None:
                assert await say_goodbye(raw) == (1000, "")
                await until(lambda: hub.stats()["clients"] == 0)


def test_an_authorize_hook_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="authorize needs a function"):
        Hub().authorize("no function")


def test_a_broadcast_server_is_not_closed_in_its_own_thread():
    with BroadcastServer() as server:
        with pytest.raises(RuntimeError, match="close it in another one"):
            server.call(server.close)
        assert server.publish("default", "x") == 1


def test_a_broadcast_server_without_descriptors_for_its_event_loop_says_so():
    server = BroadcastServer()
    with descriptors_are_short(), pytest.raises(OSError, match="Too many open files"), server:
        raise AssertionError("it was started")


@contextlib.contextmanager
def descriptors_are_short():
    """Let this process open not one more, for the time being."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest_free:
        limit = lowest_free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_waits_for_a_fleet_that_is_closed_meanwhile_is_told():
    with BroadcastServer() as server:
        fleet = Fleet(1, server.url, server=server)
        waiting = fleet._thread.begin(int, lambda: False)
        fleet.close()
        with pytest.raises(RuntimeError, match="closed meanwhile"):
            waiting.result(seconds(10))
        with pytest.raises(RuntimeError, match="closed meanwhile"):     # also what is begun only afterwards
            fleet._thread.begin(int, lambda: False).result(seconds(10))


def test_a_broadcast_server_is_refused_the_second_time_while_the_first_goes_on():
    server = BroadcastServer()
    with server:
        with pytest.raises(RuntimeError, match="make another one"), server:
            raise AssertionError("it was entered again")
        assert server.publish("default", "x") == 1
    with pytest.raises(RuntimeError, match="make another one"), server:
        raise AssertionError("it was entered again")


STOPPED = """
import asyncio, os, signal, sys, uvloop
from fastbcast import Hub, serve
from fastbcast.server.process import Process

async def main():
    hub = Hub()
    hub.on_message(lambda client, message: [os.kill(os.getpid(), int(number)) for number in message.split()])
    process = Process(None, 0.05)
    server = await process.start(serve(hub))
    print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
    await process.run(server)

{"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]](main())
"""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1001), (signal.SIGTERM, 1012)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_that_arrives_twice_at_once_is_one_stop(start_process, loop, number, code):
    server = start_process([sys.executable, "-c", STOPPED, loop])
    with connect(server.url) as client:
        client.send(f"{int(number)} {int(number)}")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=seconds(20))
        assert caught.value.rcvd.code == code
    assert server.process.wait(seconds(20)) == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_another_signal_at_once_ends_the_process_at_once(start_process, loop):
    server = start_process([sys.executable, "-c", STOPPED, loop])
    with SilentClient(server.port) as client:
        client.sock.sendall(client_frame(TEXT, f"{int(signal.SIGTERM)} {int(signal.SIGINT)}".encode()))
        assert server.process.wait(seconds(20)) == 128 + signal.SIGINT


FORKING = """
import asyncio, os, sys, time, uvloop
import fastbcast

hub = fastbcast.Hub()

@hub.on_message
def fork(client, message):
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:   # and has all its descriptors open meanwhile
            time.sleep(0.05)
        os._exit(0)

async def main():
    async with fastbcast.serve(hub) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await asyncio.Event().wait()

{"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]](main())
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_hears_of_the_end_though_a_forked_child_has_its_descriptor(start_process, loop):
    server = start_process([sys.executable, "-c", FORKING, loop])
    with SilentClient(server.port) as client:
        client.sock.sendall(client_frame(TEXT, b"fork") + client_frame(CLOSE, close_payload(1000)))
        assert client.read_to_close()[-1].payload == close_payload(1000)
        client.sock.settimeout(seconds(10))
        assert client.sock.recv(1) == b""
