"""A new process takes over from the one that serves, and nobody who connects notices."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
import uvloop
import websockets
from conftest import missing, seconds
from raw_client import handshake
from reference import CLOSE, client_frame, parse_frames
from websockets.sync.client import connect, unix_connect

from fastbcast.server import handover
from fastbcast.server.handover import READY, HandoverFailed, Offer, find_predecessor
from fastbcast.server.listeners import Listeners

CLIENTS = 5_000


@pytest.fixture
def start():
    """Start `fastbcast serve --handover PATH` and wait until it has printed its line; killed at the end."""
    with contextlib.ExitStack() as stack:

        def start_process(*arguments, wait=True):
            process = stack.enter_context(subprocess.Popen(
                [sys.executable, "-m", "fastbcast", "serve", *arguments],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            ))
            stack.callback(process.kill)
            if wait:
                process.line = process.stdout.readline()
                assert process.line.startswith("listening on "), process.communicate()
            return process

        yield start_process


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "handover")


def end_of(process):
    output = process.communicate(timeout=seconds(20))
    return (process.returncode, *output)


def interrupt(process):
    process.send_signal(signal.SIGINT)
    return end_of(process)


# The command.


def test_the_same_command_again_replaces_the_first(start, path):
    first = start("--port", "0", "--handover", path)
    url = first.line.split()[-1]
    with connect(url) as client:
        second = start("--port", "0", "--handover", path)
        assert second.line == first.line
        with pytest.raises(websockets.ConnectionClosed) as caught:
            client.recv(timeout=seconds(20))
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "service restart; retry-after=0.0")
    assert end_of(first) == (0, "", "")
    with connect(url):
        pass
    third = start("--port", "0", "--handover", path)
    assert end_of(second) == (0, "", "")
    with connect(url):
        pass
    assert interrupt(third) == (0, "", "")
    assert not os.path.exists(path)


def test_one_that_starts_while_the_first_is_told_to_stop_and_drains_serves_at_the_same_address(start, path):
    first = start("--port", "0", "--handover", path, "--drain-seconds", "3600")
    url = first.line.split()[-1]
    host, port = "127.0.0.1", url.rpartition(":")[2].strip("/")
    with socket.create_connection((host, int(port))) as undecided:     # which the drain waits for
        first.send_signal(signal.SIGTERM)
        end = time.monotonic() + seconds(20)
        while os.path.exists(path):
            assert time.monotonic() < end
        second = start("--port", port, "--handover", path)
        with connect(url):
            pass
        assert first.poll() is None
        undecided.close()
    assert end_of(first) == (0, "", "")
    with connect(url):
        pass
    assert interrupt(second) == (0, "", "")


def test_the_first_signal_to_one_that_drains_because_it_was_taken_over_is_no_second_one(start, path):
    first = start("--port", "0", "--handover", path, "--drain-seconds", "3600")
    port = int(first.line.rstrip("/\n").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):     # which the drain waits for
        second = start("--port", "0", "--handover", path)
        first.send_signal(signal.SIGTERM)
    assert end_of(first) == (0, "", "")
    assert interrupt(second) == (0, "", "")


def test_only_its_own_user_may_ask(start, path):
    start("--port", "0", "--handover", path)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_unix_socket_is_handed_over_with_its_file(start, path, tmp_path):
    uds = str(tmp_path / "server")
    first = start("--uds", uds, "--handover", path)
    second = start("--uds", uds, "--handover", path)
    assert second.line == f"listening on unix:{uds}\n"
    assert end_of(first) == (0, "", "")
    with unix_connect(uds):
        pass
    assert interrupt(second) == (0, "", "")
    assert not os.path.exists(uds)


def test_what_a_dead_process_left_does_not_matter(start, path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
        stale.listen()
    process = start("--port", "0", "--handover", path)
    with connect(process.line.split()[-1]):
        pass


def test_a_path_that_cannot_be_is_said_in_a_sentence(start, path):
    with open(path, "w") as file:
        file.write("precious")
    process = start("--port", "0", "--handover", path, wait=False)
    status, output, errors = end_of(process)
    assert (status, output) == (1, "")
    assert errors == f"fastbcast: cannot listen on {path}: there is a file that is no socket\n"
    with open(path) as file:
        assert file.read() == "precious"


def test_two_new_ones_at_once_replace_the_first_one_after_the_other(start, path):
    first = start("--port", "0", "--handover", path)
    url = first.line.split()[-1]
    others = [start("--port", "0", "--handover", path, wait=False) for _ in range(2)]
    assert [process.stdout.readline() for process in others] == [first.line] * 2
    assert end_of(first) == (0, "", "")
    with connect(url):
        pass
    # One of them has replaced the other.
    ended = []
    while not ended:
        ended = [process for process in others if process.poll() is not None]
    (left,) = [process for process in others if process not in ended]
    assert [end_of(process) for process in ended] == [(0, "", "")]
    with connect(url):
        pass
    assert interrupt(left) == (0, "", "")


# Half-done states. The test is one of the two sides.


def ask(path):
    """Be a new process up to where it has the sockets."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds(20))
    connection.connect(path)
    data, fds, _, _ = socket.recv_fds(connection, 16 * 1024, 16)
    assert json.loads(data)["fastbcast"] == 1
    return connection, [socket.socket(fileno=fd) for fd in fds]


def close_all(sockets):
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("word", [b"", b"readx\n", b"\x00" * 64], ids=["dies", "garbage", "much-garbage"])
def test_without_the_right_word_the_old_one_goes_on(start, path, word):
    first = start("--port", "0", "--handover", path, "--log-level", "error")
    url = first.line.split()[-1]
    with connect(url) as client:
        connection, sockets = ask(path)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(word)
        connection.close()
        close_all(sockets)
        client.ping().wait(seconds(20))
        second = start("--port", "0", "--handover", path)    # and it still hands over
        assert second.line == first.line
    assert end_of(first) == (0, "", "")


def test_a_new_one_that_died_after_its_word_has_taken_over_and_the_next_one_finds_nobody(start, path):
    first = start("--port", "0", "--handover", path)
    connection, sockets = ask(path)
    connection.sendall(READY)
    assert connection.recv(16) == b"yours\n"
    connection.close()
    close_all(sockets)
    assert end_of(first) == (0, "", "")
    process = start("--port", "0", "--handover", path)
    with connect(process.line.split()[-1]):
        pass


async def test_the_old_one_may_die_as_soon_as_it_has_given_the_sockets(path):
    listener = socket.create_server(("127.0.0.1", 0))
    offer = Offer(path, Listeners([listener]), lambda: None)
    predecessor = await find_predecessor(path)
    offer._task.cancel()    # as dead as it can be in this process: its connections are closed
    await offer.close()
    listener.close()
    mine = Listeners(predecessor.sockets)
    await predecessor.dismiss(mine)     # no error
    predecessor.close()
    with contextlib.closing(mine):
        address = mine.sockets[0].getsockname()
        client = socket.create_connection(address)      # the kernel's queue is as it was
        accepted, _ = await asyncio.get_running_loop().sock_accept(mine.sockets[0])
        close_all([client, accepted])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "others are taking over again and again"),
        (b"hello", "no fastbcast is there"),
        (b"[]", "no fastbcast is there: it offers no sockets"),
        (b'{"fastbcast": 1, "files": []}', "no fastbcast is there: it offers no sockets"),
    ],
    ids=["nothing", "no-json", "another-json", "no-sockets"],
)
async def test_what_is_no_fastbcast_is_an_error(path, monkeypatch, answer, sentence):
    monkeypatch.setattr(handover, "OFFER_SECONDS", 0.2)

    async def speak(reader, writer):
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(speak, path):
        with pytest.raises(HandoverFailed, match=sentence):
            await find_predecessor(path)


def test_somebody_who_says_nothing_is_not_waited_for(run, path, monkeypatch):
    monkeypatch.setattr(handover, "OFFER_SECONDS", 0.1)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(path)
        silent.listen()

        async def scenario():
            with pytest.raises(HandoverFailed, match="no answer within"):
                await find_predecessor(path)

        run(scenario())


async def test_a_descriptor_that_does_not_listen_is_refused(path):
    with socket.socket() as sock:
        place = Listeners()
        place.bind_file(path, 1)
        asking = asyncio.create_task(find_predecessor(path))
        connection, _ = await asyncio.get_running_loop().sock_accept(place.sockets[0])
        socket.send_fds(connection, [b'{"fastbcast": 1, "files": []}'], [sock.fileno()])
        with pytest.raises(HandoverFailed, match="is no listening stream socket"):
            await asking
        connection.close()
        place.close()


async def test_another_users_process_is_refused(path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with contextlib.closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(HandoverFailed, match=r"is of user \d+, not of 12345"):
            await find_predecessor(path)


# A rolling restart.


class Subscriber(asyncio.Protocol):
    """A lean client that comes back when it is closed with 1012, as it is told to."""

    def __init__(self, crowd):
        self.crowd = crowd
        self.data = b""
        self.is_open = False
        self.code = None

    def connection_made(self, transport):
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data):
        self.data += data
        if not self.is_open:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self.is_open = True
            self.data = rest
            self.crowd.entered(self)
        frames, self.data = parse_frames(self.data)
        for frame in frames:
            if frame.opcode == CLOSE:
                self.code = int.from_bytes(frame.payload[:2], "big")
                self.transport.write(client_frame(CLOSE, frame.payload[:2]))
            else:
                self.crowd.received(self, frame.payload)

    def connection_lost(self, error):
        self.crowd.left(self)


REQUEST = handshake("/news")


def raise_descriptor_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CLIENTS:
        missing(f"no {2 * CLIENTS} file descriptors")
    if soft < 2 * CLIENTS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CLIENTS, hard))


class Crowd:
    """Subscribers of one server, and what has become of them."""

    def __init__(self, port):
        self.port = port
        self.connected = set()
        self.entries = 0
        self.heard = set()
        self.failures = []
        self.tasks = set()

    def connect(self):
        task = asyncio.ensure_future(self._connect())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _connect(self):
        try:
            await asyncio.get_running_loop().create_connection(lambda: Subscriber(self), "127.0.0.1", self.port)
        except OSError as error:
            self.failures.append(error)

    def entered(self, client):
        self.connected.add(client)
        self.entries += 1

    def left(self, client):
        self.connected.discard(client)
        if client.code == 1012:
            self.connect()
        elif not self.is_over:
            self.failures.append((client.is_open, client.code))

    def received(self, client, message):
        self.heard.add((client, message))

    is_over = False


def test_a_rolling_restart_refuses_and_resets_nobody(start, path):
    """5,000 clients come back, and more come all the time: each connect succeeds, and all end at the new process."""
    raise_descriptor_limit()
    arguments = ("--relay", "--port", "0", "--handover", path, "--drain-seconds", "3")
    first = start(*arguments)
    port = int(first.line.rstrip("/\n").rpartition(":")[2])

    async def passers_by(crowd, stop):
        """Connect, be upgraded, and go, again and again."""
        count = 0
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            count += 1
        return count

    async def scenario():
        crowd = Crowd(port)
        for begin in range(0, CLIENTS, 500):
            await asyncio.gather(*[crowd.connect() for _ in range(begin, min(begin + 500, CLIENTS))])
        while len(crowd.connected) < CLIENTS:
            await asyncio.sleep(0.01)
        stop = asyncio.Event()
        passing = asyncio.create_task(passers_by(crowd, stop))
        second = await asyncio.to_thread(start, *arguments)
        assert second.line == first.line
        end = await asyncio.to_thread(end_of, first)
        assert end == (0, "", "")
        while len(crowd.connected) < CLIENTS or crowd.tasks:
            await asyncio.sleep(0.01)
        stop.set()
        assert await passing > 10
        assert crowd.failures == []
        assert crowd.entries == 2 * CLIENTS     # each came once before, and once after
        async with websockets.connect(f"ws://127.0.0.1:{port}/news") as sender:
            await sender.send("to all")
            while len(crowd.heard) < CLIENTS:
                await asyncio.sleep(0.01)
        assert len(crowd.heard) == CLIENTS
        crowd.is_over = True
        for client in list(crowd.connected):
            client.transport.abort()
        return second

    async def bounded():
        return await asyncio.wait_for(scenario(), seconds(90))

    second = uvloop.run(bounded())
    assert interrupt(second) == (0, "", "")
