"""Clients that nobody here wrote, against the real relay: `fastbcast serve --relay`.

A peer (websockets) and the client under test share a channel. The client says "ready", takes the peer's
MESSAGES, sends them back as they came, pings, and closes with 4001. The relay sends everything to both, so the
peer sees its own messages, then the client's: equal in order, type and content, or the client got them wrong.

Chromium does the same in test_page.py.
"""

import base64
import contextlib
import hashlib
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import find_program, missing, seconds
from websockets.sync.client import connect

NODE = Path(__file__).parent / "node"
MESSAGES = [
    "text",
    b"binary \x00\xff",
    "Grüße, 世界 🎉",
    "",
    b"",
    "x" * 125,  # the largest 2-byte header, the smallest and largest 4-byte ones (RFC 6455 section 5.2)
    "x" * 126,
    b"x" * 65535,
    "y" * 70_000,  # a 10-byte header
    bytes(range(256)) * 274,
    "last",
]
PING = "are you there?"
CLOSE_CODE = 4001


@pytest.fixture
def relay(serve_process):
    return serve_process("--relay")


def recv(connection):
    return connection.recv(timeout=seconds(20))


def exchange(relay, run_client):
    """Let `run_client(url)` do its part, with the peer in a thread; check what comes back, return its result."""
    url = relay.url + "foreign"

    def be_peer(peer):
        assert recv(peer) == "ready"
        for message in MESSAGES:
            peer.send(message)
        return [recv(peer) for _ in range(2 * len(MESSAGES))]

    # The connection is closed first, so that a client's failure does not leave the thread waiting.
    with ThreadPoolExecutor(1) as executor, connect(url, close_timeout=seconds(10)) as peer:
        waiting = executor.submit(be_peer, peer)
        result = run_client(url)
        received = waiting.result(seconds(60))
    own, returned = received[: len(MESSAGES)], received[len(MESSAGES) :]
    assert [type(message) for message in returned] == [type(message) for message in MESSAGES]
    assert returned == MESSAGES
    assert own == MESSAGES
    return result


def check_browser(relay, evaluate):
    """Run client.js in a browser whose `evaluate(expression)` waits for a promise of a string."""

    def run_client(url):
        script = (NODE / "client.js").read_text()
        return json.loads(
            evaluate(f"{script}\nrelayBack(WebSocket, {json.dumps(url)}, {len(MESSAGES)}).then(JSON.stringify)")
        )

    # A browser's WebSocket has no ping.
    result = exchange(relay, run_client)
    assert result == {"sameAgain": True, "code": CLOSE_CODE, "isClean": True, "pong": None, "extensions": ""}


# Python websockets, with the compression it offers by default.


def test_python_websockets(relay):
    def run_client(url):
        with connect(url, close_timeout=seconds(10)) as connection:
            assert "permessage-deflate" in connection.request.headers["Sec-WebSocket-Extensions"]
            connection.send("ready")
            assert recv(connection) == "ready"
            taken = [recv(connection) for _ in MESSAGES]
            for message in taken:
                connection.send(message)
            assert [recv(connection) for _ in MESSAGES] == taken
            assert connection.ping(PING).wait(seconds(10))
            connection.close(CLOSE_CODE, "done")
            return connection.protocol.close_rcvd.code

    assert exchange(relay, run_client) == CLOSE_CODE


# Node ws.


@pytest.fixture(scope="session")
def node():
    program = find_program("node", "nodejs")
    if not (NODE / "node_modules" / "ws").is_dir():
        npm = find_program("npm")
        install = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NODE, capture_output=True, text=True
        )
        if install.returncode != 0:
            missing(f"npm ci failed: {install.stderr.strip()[-500:]}")
    return program


def test_node_ws(relay, node):
    def run_client(url):
        command = [node, str(NODE / "client.js"), url, str(len(MESSAGES))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(60))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    result = exchange(relay, run_client)
    assert result == {"sameAgain": True, "code": CLOSE_CODE, "isClean": True, "pong": PING, "extensions": ""}


# Firefox, driven by WebDriver BiDi (Playwright's Firefox is a build of its own).


class Firefox:
    """One window of a headless Firefox."""

    def __init__(self, connection):
        self._connection = connection
        self._last_id = 0
        self.call("session.new", capabilities={})
        self._context = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method, **parameters):
        self._last_id += 1
        self._connection.send(json.dumps({"id": self._last_id, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=seconds(60)))
            if answer.get("id") == self._last_id:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, url):
        self.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, expression):
        """Evaluate JavaScript that gives (a promise of) a string."""
        answer = self.call(
            "script.evaluate", expression=expression, target={"context": self._context}, awaitPromise=True
        )
        assert answer["type"] == "success", answer
        return answer["result"]["value"]

    def wait_for_other(self, text, expression):
        """Return what `expression` gives as soon as it is not `text`."""
        return self.evaluate(f"""new Promise((resolve) => {{
            const look = () => {{
                const now = {expression};
                if (now === {json.dumps(text)}) setTimeout(look, 20); else resolve(now);
            }};
            look();
        }})""")


@contextlib.contextmanager
def start_firefox(program, profile):
    """Give the address of a Firefox's WebDriver BiDi; the process, and what it started, end with the block."""
    process = subprocess.Popen(
        [program, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", str(profile)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HOME": str(profile)},
        start_new_session=True,
    )
    lines = queue.SimpleQueue()
    # Read to the end: a full pipe would stop it.
    reader = threading.Thread(target=_put_lines, args=(process.stderr, lines))
    reader.start()
    try:
        while (match := re.search(r"WebDriver BiDi listening on (ws://\S+)", lines.get(timeout=seconds(60)))) is None:
            pass
        yield match[1]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        process.stderr.close()


def _put_lines(file, lines):
    for line in file:
        lines.put(line)


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    program = find_program("firefox-esr", "firefox")
    with start_firefox(program, tmp_path_factory.mktemp("firefox")) as address:
        with connect(f"{address}/session", max_size=None, compression=None) as connection:
            yield Firefox(connection)


def test_firefox(relay, firefox):
    firefox.open(relay.http_url)

    check_browser(relay, firefox.evaluate)


def test_firefox_shows_the_page(relay, firefox):
    firefox.open(relay.http_url)
    state = "document.getElementById('state').textContent"
    assert firefox.wait_for_other("connecting", state) == "connected"
    with connect(relay.url) as connection:
        connection.send("<b>from Python</b>")
        first = "document.querySelector('#messages .text')?.textContent ?? ''"
        assert firefox.wait_for_other("", first) == "<b>from Python</b>"


# The handshake of older Firefox and of proxies: `Connection: keep-alive, Upgrade`, by raw socket.


class RawClient:
    """RFC 6455 by hand, so that headers are seen as they are on the wire."""

    def __init__(self, port, path):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds(20))
        self._file = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: old\r\nAccept: */*\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
            f"Sec-WebSocket-Key: {key}\r\nConnection: keep-alive, Upgrade\r\nPragma: no-cache\r\n"
            "Cache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n".encode()
        )
        self.status = self._file.readline()
        self.headers = {}
        while line := self._file.readline().decode().strip():
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        self.accept = base64.b64encode(digest).decode()

    def send(self, opcode, payload):
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        mask = os.urandom(4)
        repeated = (mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        self._socket.sendall(head + mask + masked.to_bytes(length, "big"))

    def recv(self):
        """Return (header's length in bytes, opcode, payload); the first byte must be FIN and an opcode."""
        first, length = self._file.read(2)
        assert first & 0xF0 == 0x80
        size = {126: 2, 127: 8}.get(length, 0)
        if size:
            length = int.from_bytes(self._file.read(size), "big")
        return 2 + size, first & 0x0F, self._file.read(length)

    def close(self):
        """Return what was left to read, up to the server's end of the connection."""
        rest = self._file.read()
        self._file.close()
        self._socket.close()
        return rest


TEXT, BINARY, CLOSE, PING_FRAME, PONG_FRAME = 1, 2, 8, 9, 10


def test_old_handshake(relay):
    def run_client(url):
        client = RawClient(relay.port, url.removeprefix(relay.url.rstrip("/")))
        assert client.status == b"HTTP/1.1 101 Switching Protocols\r\n"
        assert client.headers["sec-websocket-accept"] == client.accept
        assert client.headers["upgrade"].lower() == "websocket"
        assert client.headers["connection"].lower() == "upgrade"
        client.send(TEXT, b"ready")
        assert client.recv() == (2, TEXT, b"ready")
        taken = [client.recv() for _ in MESSAGES]
        for _, opcode, payload in taken:
            client.send(opcode, payload)
        assert [client.recv() for _ in MESSAGES] == taken
        client.send(PING_FRAME, PING.encode())
        assert client.recv() == (2, PONG_FRAME, PING.encode())
        close = CLOSE_CODE.to_bytes(2, "big")
        client.send(CLOSE, close + b"done")
        assert client.recv() == (2, CLOSE, close)
        assert client.close() == b""
        return [header_bytes for header_bytes, _, _ in taken]

    assert exchange(relay, run_client) == [2, 2, 2, 2, 2, 2, 4, 4, 10, 10, 2]
