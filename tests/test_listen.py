"""Where a server listens besides a port: a Unix socket, a socket it is given, a descriptor it inherits."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import websockets
from conftest import find_program, seconds
from raw_client import get
from support import subscribed
from websockets.sync.client import connect, unix_connect

from fastbcast import Hub, serve

FASTBCAST = [sys.executable, "-m", "fastbcast"]


@pytest.fixture
def start():
    """Start a command, by default `fastbcast serve`, that is killed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start_process(*arguments, command=(*FASTBCAST, "serve"), **options):
            process = stack.enter_context(subprocess.Popen(
                [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
            ))
            stack.callback(process.kill)
            return process

        yield start_process


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


def listening_socket(family=socket.AF_INET, address=("127.0.0.1", 0)):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    return listener


def make_stale(path):
    """What a server leaves that had no time to remove its file."""
    listening_socket(socket.AF_UNIX, path).close()


# Unix sockets.


async def test_a_unix_socket_is_served_as_a_port_is(path):
    hub = Hub()
    hub.on_message(lambda client, message: hub.publish("x", message))
    async with serve(hub, uds=path) as server:
        assert (server.port, server.host) == (0, None)
        assert [listener.getsockname() for listener in server.sockets] == [path]
        async with websockets.unix_connect(path, "ws://localhost/x") as client:
            await subscribed(hub, "x")
            (served,) = hub.clients()
            assert served.remote_address == ""  # as getpeername() has it: such a peer has no address
            for message in ("text", bytes(1_000_000)):
                await client.send(message)
                assert await client.recv() == message
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get("/"))
        assert (await reader.read()).startswith(b"HTTP/1.1 426 ")
        writer.close()
    assert not os.path.exists(path)


async def test_a_dead_servers_file_is_replaced(path):
    make_stale(path)

    async with serve(Hub(), uds=path):
        async with websockets.unix_connect(path):
            pass


async def test_a_living_servers_file_is_an_error_and_stays(path):
    async with serve(Hub(), uds=path):
        with pytest.raises(OSError, match="a server is listening there"):
            await serve(Hub(), uds=path)
        async with websockets.unix_connect(path):
            pass


def test_a_file_that_is_no_socket_is_an_error_and_stays(run, path):
    with open(path, "w") as file:
        file.write("precious")

    async def scenario():
        with pytest.raises(FileExistsError, match="no socket"):
            await serve(Hub(), uds=path)

    run(scenario())
    with open(path) as file:
        assert file.read() == "precious"


async def test_a_file_that_is_another_servers_by_now_is_not_removed(path):
    async with serve(Hub(), uds=path):
        os.unlink(path)
        other = await serve(Hub(), uds=path)
    async with websockets.unix_connect(path):
        pass
    await other.close()
    assert not os.path.exists(path)


def test_the_umask_decides_who_may_connect(run, path):
    async def scenario():
        async with serve(Hub(), uds=path):
            assert os.stat(path).st_mode & 0o777 == 0o750

    before = os.umask(0o027)
    try:
        run(scenario())
    finally:
        os.umask(before)


def test_of_two_that_start_at_once_one_serves(start, path):
    make_stale(path)
    processes = [start("--uds", path) for _ in range(2)]
    lines = sorted(process.stdout.readline() for process in processes)
    assert lines == ["", f"listening on unix:{path}\n"]
    with unix_connect(path):
        pass
    for process in processes:
        process.send_signal(signal.SIGINT)
    ends = sorted((process.communicate(timeout=seconds(20))[1], process.returncode) for process in processes)
    assert ends == [("", 0), (f"fastbcast: cannot listen on {path}: a server is listening there\n", 1)]
    assert not os.path.exists(path)


# Sockets that somebody else has made.


async def test_a_listening_socket_may_be_given():
    with listening_socket() as listener:
        port = listener.getsockname()[1]
        async with serve(Hub(), sock=listener) as server:
            assert server.port == port
            async with websockets.connect(f"ws://127.0.0.1:{port}/"):
                pass
        assert listener.fileno() == -1


async def test_several_listening_sockets_may_be_given(path):
    hub = Hub()
    listener = listening_socket()
    async with serve(hub, sock=[listener, listening_socket(socket.AF_UNIX, path)]):
        async with (
            websockets.connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/"),
            websockets.unix_connect(path),
        ):
            await subscribed(hub, "default", 2)
    assert os.path.exists(path)  # whoever made it removes it


def test_one_place_to_listen_is_given(path):
    with listening_socket() as listener, pytest.raises(ValueError, match="give one"):
        serve(Hub(), uds=path, sock=listener)


# The command.


def stop(process):
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=seconds(20))
    assert (process.returncode, *output) == (0, "", "")


def test_the_command_listens_on_a_unix_socket(start, path):
    process = start("--uds", path)
    assert process.stdout.readline() == f"listening on unix:{path}\n"
    with unix_connect(path):
        pass
    stop(process)
    assert not os.path.exists(path)


def test_the_command_listens_on_an_inherited_descriptor(start):
    with listening_socket() as listener:
        port = listener.getsockname()[1]
        process = start("--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
    assert process.stdout.readline() == f"listening on ws://127.0.0.1:{port}/\n"
    with connect(f"ws://127.0.0.1:{port}/"):
        pass
    stop(process)


@pytest.mark.parametrize(
    ("descriptor", "sentence"),
    [
        ("77", "descriptor 77: Bad file descriptor"),
        ("0", "descriptor 0: Socket operation on non-socket"),
        ("9" * 30, f"descriptor {'9' * 30}: Bad file descriptor"),
        ("\u0663", "--fd is the number of a descriptor, or systemd, got '\u0663'"),
        ("-1", "--fd is the number of a descriptor, or systemd, got '-1'"),
        ("systemd", "systemd has passed no sockets to this process (LISTEN_PID, LISTEN_FDS)"),
    ],
)
def test_a_descriptor_that_does_not_do_is_said_in_a_sentence(start, descriptor, sentence):
    process = start("--fd", descriptor, stdin=subprocess.DEVNULL)
    assert process.communicate(timeout=seconds(20)) == ("", f"fastbcast: {sentence}\n")
    assert process.returncode == 2


def test_a_socket_that_does_not_listen_is_said_in_a_sentence(start):
    with socket.socket() as sock:
        process = start("--fd", str(sock.fileno()), pass_fds=[sock.fileno()])
        sentence = f"fastbcast: descriptor {sock.fileno()} is no listening stream socket\n"
        assert process.communicate(timeout=seconds(20)) == ("", sentence)
        assert process.returncode == 2


def test_the_command_takes_the_sockets_of_systemd(start, path):
    """As systemd passes them: from descriptor 3 on, with the number in LISTEN_FDS and the process in LISTEN_PID."""
    with listening_socket() as listener, listening_socket(socket.AF_UNIX, path) as other:
        port = listener.getsockname()[1]
        script = (
            f"import os, sys\nos.dup2({listener.fileno()}, 103), os.dup2({other.fileno()}, 104)\n"
            "os.dup2(103, 3), os.dup2(104, 4)\nos.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        )
        process = start(
            "-m", "fastbcast", "serve", "--fd", "systemd",
            command=[sys.executable, "-c", script], pass_fds=[listener.fileno(), other.fileno()],
        )
        assert process.stdout.readline() == f"listening on ws://127.0.0.1:{port}/\n"
        with connect(f"ws://127.0.0.1:{port}/"), unix_connect(path):
            pass
        stop(process)
    assert os.path.exists(path)  # systemd's


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is of Linux")
def test_systemd_itself_starts_it_at_the_first_connection(start):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = find_program("systemd-socket-activate")
    environment = [f"--setenv={name}" for name in os.environ]   # it passes on little by itself: no build's folder
    command = [program, "-l", f"127.0.0.1:{port}", *environment, *FASTBCAST, "serve"]
    process = start("--fd", "systemd", command=command)
    deadline = time.monotonic() + seconds(20)
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), connect(f"ws://127.0.0.1:{port}/"):
            break
    assert process.stdout.readline() == f"listening on ws://127.0.0.1:{port}/\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=seconds(20))
    assert process.returncode == 0


def test_a_tilde_that_no_shell_has_seen_is_the_home_folder(start, tmp_path):
    (tmp_path / "tokens").write_text("reader-0123456789abcdef\n")
    (tmp_path / "tokens").chmod(0o600)
    environment = os.environ | {"HOME": str(tmp_path)}
    process = start("--uds=~/server", "--subscribe-token-file=~/tokens", env=environment)
    assert process.stdout.readline() == f"listening on unix:{tmp_path}/server\n"
