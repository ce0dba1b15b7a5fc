"""SystemExit and KeyboardInterrupt of handlers and hooks: the client is told, then the program ends."""

import signal
import ssl
import sys

import pytest
from conftest import LOOPS, seconds
from support import KINDS
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from fastbcast.testing import BroadcastServer

PROGRAM = """
import asyncio, logging, sys, uvloop
import fastbcast

loop_name, event, kind, raised = sys.argv[1:]
logging.basicConfig(format="%(levelname)s %(message)s")
hub = fastbcast.Hub()


def end(*arguments):
    if raised == "KeyboardInterrupt":
        raise KeyboardInterrupt
    sys.exit(int(raised))


async def end_later(*arguments):
    await asyncio.sleep(0)
    end()


def end_at_a_query(request):
    if request.query:
        return end() if kind == "sync" else end_later()


if event == "authorize":
    hub.authorize(end_at_a_query)
else:
    hub.on_message(end_later if kind == "async" else end)


@hub.on_error
def tell(client, error):
    print("on_error", type(error).__name__, flush=True)
    if kind == "twice":
        sys.exit(4)


async def main():
    async with fastbcast.serve(hub) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await asyncio.Event().wait()


{"asyncio": asyncio.run, "uvloop": uvloop.run}[loop_name](main())
"""

# Once a client has sent the name of a place there, a signal comes the next time that the program is at that place.
INTERRUPTED = """
import asyncio, logging, os, signal, sys, uvloop
import fastbcast
from fastbcast.connection.keepalive import Keepalive
from fastbcast.http._handshake import Handshake
from fastbcast.server.tls import Tls, make_context

loop_name, *certificate = sys.argv[1:]
logging.basicConfig(format="%(levelname)s %(message)s")
signal.signal(signal.SIGUSR1, lambda *arguments: sys.exit(7))
hub = fastbcast.Hub()
PLACES = {
    "head": (fastbcast.Hub, "check_channel_name"),
    "before-101": (Keepalive, "add"),
    "101": (Tls, "set_protocol"),
    "tls-handshake": (Tls, "_shake_hands"),
    "record": (Tls, "_read"),
}


@hub.on_message
def prepare(client, place):
    owner, name = PLACES[place]
    method = getattr(owner, name)

    def interrupted(*arguments):
        if isinstance(arguments[-1], Handshake):    # Tls gets a protocol twice: this is the first, long before a 101
            return method(*arguments)
        setattr(owner, name, method)
        os.kill(os.getpid(), signal.SIGUSR1)
        return method(*arguments)

    asyncio.get_running_loop().call_soon(setattr, owner, name, interrupted)
    client.send("ready")


async def main():
    tls = make_context(*certificate) if certificate else None
    async with fastbcast.serve(hub, ssl=tls) as server:
        print(f"listening on {'wss' if tls else 'ws'}://127.0.0.1:{server.port}/", flush=True)
        await asyncio.Event().wait()


{"asyncio": asyncio.run, "uvloop": uvloop.run}[loop_name](main())
"""

CANCELLED = """
import asyncio, logging, sys, uvloop
import fastbcast

logging.basicConfig(format="%(levelname)s %(message)s")
hub = fastbcast.Hub()


@hub.authorize
async def decide(request):
    if request.query:
        try:
            await asyncio.Event().wait()
        finally:
            sys.exit(3)


async def main():
    async with fastbcast.serve(hub, authorize_seconds=0.2) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await asyncio.Event().wait()


{"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]](main())
"""

COMMAND = """
import sys
from fastbcast import Hub
from fastbcast.command import cli

Hub.relay = lambda self, client, message: sys.exit(int(message))
cli.main(["serve", "--port", "0", *sys.argv[1:]])
"""


def receive_close(client):
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=seconds(20))
    return caught.value.rcvd.code


def wait_for_end(server):
    output, errors = server.process.communicate(timeout=seconds(20))
    return server.process.returncode, output.decode(), errors.decode()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("raised", "status"),
    [("3", 3), ("0", 0), ("KeyboardInterrupt", -signal.SIGINT)],
    ids=["exit-3", "exit-0", "interrupt"],
)
def test_a_handler_that_exits_ends_the_program_with_its_status(start_process, loop, kind, raised, status):
    server = start_process([sys.executable, "-c", PROGRAM, loop, "on_message", kind, raised])
    with connect(server.url) as client, connect(server.url) as other:
        client.send("x")
        assert receive_close(client) == 1011
        assert receive_close(other) == 1001
    name = "KeyboardInterrupt" if raised == "KeyboardInterrupt" else "SystemExit"
    returncode, output, errors = wait_for_end(server)
    assert (returncode, output) == (status, f"on_error {name}\n")
    assert "ERROR handler_failed handler=on_message\nTraceback" in errors
    assert f"builtins.{name}" in errors


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_authorize_hook_that_exits_ends_the_program_with_its_status(start_process, loop, kind):
    server = start_process([sys.executable, "-c", PROGRAM, loop, "authorize", kind, "3"])
    with connect(server.url) as other:
        with pytest.raises(InvalidStatus) as caught, connect(server.url + "?end"):
            pass
        assert caught.value.response.status_code == 500
        assert receive_close(other) == 1001
    returncode, output, errors = wait_for_end(server)
    assert (returncode, output) == (3, "")
    assert "ERROR authorize_failed\nTraceback" in errors


@pytest.mark.parametrize("loop", LOOPS)
def test_an_authorize_hook_that_exits_when_it_is_cancelled_ends_the_program(start_process, loop):
    server = start_process([sys.executable, "-c", CANCELLED, loop])
    with connect(server.url) as other:
        with pytest.raises(InvalidStatus) as caught, connect(server.url + "?wait"):
            pass
        assert caught.value.response.status_code == 503
        assert receive_close(other) == 1001
    returncode, output, errors = wait_for_end(server)
    assert (returncode, output) == (3, "")
    assert "ERROR authorize_failed\nTraceback" in errors


@pytest.mark.parametrize("loop", LOOPS)
def test_two_that_exit_in_one_turn_end_the_program_once_and_the_others_are_told(start_process, loop):
    server = start_process([sys.executable, "-c", PROGRAM, loop, "on_message", "twice", "3"])
    with connect(server.url) as client, connect(server.url) as other:
        client.send("x")
        assert receive_close(client) == 1011
        assert receive_close(other) == 1001
    returncode, output, _ = wait_for_end(server)
    assert (returncode, output) == (4, "on_error SystemExit\n")    # the first to come is on_error's


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("place", "is_tls"),
    [("head", False), ("before-101", False), ("101", True), ("tls-handshake", True), ("record", True)],
)
def test_a_signal_handler_that_exits_ends_the_program_wherever_it_interrupts(
    start_process, authority, tmp_path, loop, place, is_tls
):
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    files = [str(tmp_path / "cert"), str(tmp_path / "key")] if is_tls else []
    server = start_process([sys.executable, "-c", INTERRUPTED, loop, *files])
    options = {"ssl": trust} if is_tls else {}
    with connect(server.url, **options) as other:
        other.send(place)
        assert other.recv(timeout=seconds(20)) == "ready"
        with pytest.raises((OSError, EOFError, WebSocketException)), connect(server.url, **options):
            pass
        assert receive_close(other) == 1001
    returncode, _, errors = wait_for_end(server)
    assert returncode == 7
    assert "ERROR internal_error\nTraceback" in errors
    assert "Fatal error" not in errors


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_that_exits_ends_the_command_with_its_status(start_process, loop):
    server = start_process([sys.executable, "-c", COMMAND, "--loop", loop])
    with connect(server.url) as client, connect(server.url) as other:
        client.send("3")
        assert receive_close(client) == 1011
        assert receive_close(other) == 1001
    returncode, output, errors = wait_for_end(server)
    assert (returncode, output) == (3, "")
    assert "ERROR handler_failed handler=on_message" in errors


@pytest.mark.parametrize("kind", KINDS)
def test_in_another_thread_a_handler_that_exits_has_failed_and_the_server_goes_on(kind, caplog):
    errors = []

    def end(client, message):
        sys.exit(3)

    async def end_later(client, message):
        sys.exit(3)

    with BroadcastServer() as server:
        server.call(server.hub.on_message, end if kind == "sync" else end_later)
        server.call(server.hub.on_error, lambda client, error: errors.append(error))
        for _ in range(2):
            with connect(server.url) as client:
                client.send("x")
                assert receive_close(client) == 1011
    assert [(type(error), error.code) for error in errors] == [(SystemExit, 3)] * 2
    assert [record.event for record in caplog.records] == ["handler_failed"] * 2


def test_what_a_called_function_raises_ends_no_server():
    with BroadcastServer() as server:
        for error in (SystemExit(3), KeyboardInterrupt(), pytest.fail.Exception("no")):
            with pytest.raises(type(error)) as caught:
                server.call(raise_it, error)
            assert caught.value is error
        assert server.call(int) == 0


def raise_it(error):
    raise error
