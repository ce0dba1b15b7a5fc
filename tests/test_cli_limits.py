"""The limits that `fastbcast serve` takes as options: each has its effect in a real process, or is refused."""

import contextlib
import socket
import time

import pytest
from conftest import seconds
from reference import CLOSE, parse_frames
from test_cli import SilentClient, assert_one_line, fastbcast_command, listeners, poll_until, receive
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

KIB = 1024
SIZE = 4 * KIB
COUNT = 100
NO_LIMIT = str(2**30)
SMALL_BUFFERS = ("--send-buffer-bytes", "16384", "--notsent-lowat-bytes", "4096")
SLOW = (1013).to_bytes(2, "big") + b"slow consumer"


def publish(talker, count):
    """Send numbered messages, each when the one before has come back."""
    for number in range(count):
        payload = number.to_bytes(4, "big") * (SIZE // 4)
        talker.send(payload)
        assert receive(talker) == payload


def read_frames(silent):
    """Read up to the last message, or a CLOSE: the numbers of the messages, and the CLOSE's payload."""
    numbers = []
    while not numbers or numbers[-1] != COUNT - 1:
        frames, silent.data = parse_frames(silent.data)
        for frame in frames:
            if frame.opcode == CLOSE:
                return numbers, frame.payload
            numbers.append(int.from_bytes(frame.payload[:4], "big"))
        if not frames:
            data = silent.sock.recv(65536)
            assert data, "the stream ended without a CLOSE"
            silent.data += data
    return numbers, None


def what_a_silent_client_gets(server):
    """Publish beside a client that reads nothing before the last message."""
    with SilentClient(server.port, receive_buffer_bytes=4096) as silent, connect(server.url) as talker:
        publish(talker, COUNT)
        return read_frames(silent)


def split_at_gap(numbers):
    """What came before the first gap, and what came after it."""
    before = next((index for index, number in enumerate(numbers) if index != number), len(numbers))
    return numbers[:before], numbers[before:]


@pytest.mark.parametrize("policy", ["evict", "skip", "latest", "conflate"])
def test_policy_and_max_lag_bytes_decide_what_becomes_of_who_is_too_far_behind(serve_process, policy):
    limit = str(8 * (SIZE + 4))
    server = serve_process("--relay", *SMALL_BUFFERS, "--policy", policy, "--max-lag-bytes", limit)
    numbers, close = what_a_silent_client_gets(server)
    before, after = split_at_gap(numbers)
    if policy == "evict":
        assert (close, after) == (SLOW, [])
        assert len(before) < COUNT // 2
    else:
        assert close is None
        assert after == list(range(after[0], COUNT))
        # A message without a key costs a conflating channel some bytes more.
        assert len(after) in {"skip": [8], "latest": range(1, 9), "conflate": [7]}[policy]


@pytest.mark.parametrize(
    ("options", "is_small"),
    [((), False), (("--notsent-lowat-bytes", "4096"), True), (("--send-buffer-bytes", "16384"), True)],
    ids=["defaults", "notsent_lowat_bytes", "send_buffer_bytes"],
)
def test_how_much_the_kernel_takes_of_a_backlog_may_be_set(serve_process, options, is_small):
    server = serve_process("--relay", "--policy", "latest", "--max-lag-bytes", "1", *options)
    before, after = split_at_gap(what_a_silent_client_gets(server)[0])
    assert after[-1] == COUNT - 1
    assert (len(before) < 64 * KIB / SIZE) == is_small


@pytest.mark.parametrize(
    "options",
    [
        ("--stall-seconds", "0.2", "--policy", "latest"),
        ("--soft-lag-bytes", str(SIZE), "--soft-lag-seconds", "0.2"),
    ],
    ids=["stall_seconds", "soft_lag_seconds"],
)
def test_time_ends_it_for_a_silent_client_though_nothing_more_is_published(serve_process, options):
    server = serve_process("--relay", *SMALL_BUFFERS, "--max-lag-bytes", NO_LIMIT, *options)
    with SilentClient(server.port, receive_buffer_bytes=4096) as silent:
        with connect(server.url) as talker:
            publish(talker, COUNT // 2)
        poll_until(lambda: listeners(server) == 0)
        numbers, close = read_frames(silent)
        assert close == SLOW
        assert numbers == list(range(len(numbers)))


def test_max_log_bytes_evicts_who_makes_the_log_too_large(serve_process):
    server = serve_process("--relay", *SMALL_BUFFERS, "--max-lag-bytes", NO_LIMIT, "--max-log-bytes", str(128 * KIB))
    numbers, close = what_a_silent_client_gets(server)
    assert close == SLOW
    assert numbers == list(range(len(numbers)))


def test_max_pinned_bytes_aborts_who_does_not_take_a_large_frame_at_once(serve_process):
    server = serve_process("--relay", *SMALL_BUFFERS, "--max-pinned-bytes", "1")
    with connect(server.url) as talker:
        talker.send(bytes(64 * KIB))  # a rest of this is copied
        assert receive(talker) == bytes(64 * KIB)
        talker.send(bytes(512 * KIB))
        with pytest.raises(ConnectionClosed) as caught:
            receive(talker)
        assert caught.value.rcvd is None  # no CLOSE


def test_max_channels_refuses_a_path_that_would_make_one_more_with_503(serve_process):
    server = serve_process("--relay", "--max-channels", "1")
    with connect(server.url + "a") as talker:
        with pytest.raises(InvalidStatus) as caught:
            connect(server.url + "b")
        assert caught.value.response.status_code == 503
        talker.send("still served")
        assert receive(talker) == "still served"
    poll_until(lambda: listeners(server, "a") == 0)
    with connect(server.url + "b"):
        pass


def test_what_a_channel_may_be_called_can_be_set(serve_process):
    server = serve_process("--channel-name-pattern", "[a-z]+", "--max-channel-name-bytes", "3")
    for path in ("abcd", "A", "a/b"):
        with pytest.raises(InvalidStatus) as caught, connect(server.url + path):
            pass
        assert caught.value.response.status_code == 400
    with connect(server.url + "abc"):
        pass


def test_max_inbound_messages_per_second_holds_back_who_sends_more(serve_process):
    server = serve_process("--relay", "--max-inbound-messages-per-second", "10")
    with connect(server.url) as talker:
        began = time.monotonic()
        for number in range(16):
            talker.send(str(number))
            assert receive(talker) == str(number)
        assert time.monotonic() - began >= 0.4  # ten at once, one too many, the rest at their rate


def test_max_messages_per_second_spreads_what_is_published_at_once(serve_process):
    server = serve_process("--relay", "--policy", "conflate", "--max-messages-per-second", "20")
    with connect(server.url) as talker:
        began = time.monotonic()
        for number in range(7):
            talker.send(str(number))
        assert [receive(talker) for _ in range(7)] == [str(number) for number in range(7)]
        assert time.monotonic() - began >= 0.25  # six times a twentieth of a second lie between them


def status_without_an_upgrade(server, **options):
    """The HTTP status that a handshake is refused with."""
    with pytest.raises(InvalidStatus) as caught:
        connect(server.url, **options)
    return caught.value.response.status_code


def test_max_connections_refuses_one_more_with_503(serve_process):
    server = serve_process("--max-connections", "1")
    with connect(server.url):
        assert status_without_an_upgrade(server) == 503


def test_max_connections_per_address_counts_whom_a_trusted_proxy_names(serve_process):
    server = serve_process("--max-connections-per-address", "1", "--forwarded-allow-ips", "127.0.0.1, 10.0.0.0/8,")
    headers = {"X-Forwarded-For": "203.0.113.7, 10.0.0.1"}
    with connect(server.url, additional_headers=headers), connect(server.url):
        assert status_without_an_upgrade(server, additional_headers=headers) == 429


def test_max_handshakes_cuts_off_the_oldest_that_is_half_open(serve_process):
    server = serve_process("--max-handshakes", "1")
    with socket.create_connection(("127.0.0.1", server.port), seconds(20)) as half_open:
        half_open.sendall(b"GET / HTTP/1.1\r\n")
        with connect(server.url):
            with contextlib.suppress(ConnectionError):
                assert half_open.recv(1) == b""


def test_handshake_seconds_and_max_head_bytes_bound_a_request(serve_process):
    server = serve_process("--handshake-seconds", "0.05", "--max-head-bytes", "100")
    for start, status in ((b"GET / HTTP/1.1\r\n", b"408"), (b"GET / HTTP/1.1\r\n" + b"x" * 100, b"431")):
        with socket.create_connection(("127.0.0.1", server.port), seconds(20)) as half_open:
            half_open.sendall(start)
            assert half_open.recv(12) == b"HTTP/1.1 " + status


def test_only_pages_of_an_origin_that_was_named_may_connect(serve_process):
    server = serve_process("--origin", "https://example.org", "--origin", "https://*.example.net")
    for origin in (None, "https://example.org", "https://www.example.net"):
        with connect(server.url, origin=origin):
            pass
    assert status_without_an_upgrade(server, origin="https://evil.example") == 403


def test_the_first_subprotocol_that_a_client_offers_is_settled_on(serve_process):
    server = serve_process("--subprotocol", "second", "--subprotocol", "first")
    with connect(server.url, subprotocols=["first", "second"]) as client:
        assert client.subprotocol == "second"
    with connect(server.url, subprotocols=["other"]) as client:
        assert client.subprotocol is None


@pytest.mark.parametrize(
    ("options", "form", "asks"),
    [
        ((), None, None),
        (("--compression", "off"), None, None),
        (("--compression", "deflate"), "deflate", True),
        (("--compression", "window", "--window-bits", "15", "--reset-messages", "1", "--compression-level", "9",
          "--compress-min-bytes", "0", "--max-window-bytes", "1"), "window", True),
        (("--compression", "window", "--no-client-no-context-takeover"), "window", False),
        (("--compression", "window", "--client-no-context-takeover"), "window", True),
    ],
)
def test_compression_decides_what_a_client_that_offers_it_gets(serve_process, options, form, asks):
    with connect(serve_process(*options).url) as client:    # it offers permessage-deflate
        extensions = client.protocol.extensions
        if form is None:
            assert extensions == []
        else:
            (deflate,) = extensions
            assert deflate.local_no_context_takeover == asks
            assert not deflate.remote_no_context_takeover


@pytest.mark.parametrize(
    "option",
    [
        ("--policy", "drop"),
        ("--policy", ""),
        ("--max-lag-bytes", "0"),
        ("--soft-lag-bytes", "-1"),
        ("--soft-lag-seconds", "0"),
        ("--soft-lag-seconds", "nan"),
        ("--soft-lag-seconds", "x"),
        ("--stall-seconds", "0"),
        ("--stall-seconds", "-1"),
        ("--stall-seconds", "inf"),
        ("--max-messages-per-second", "-1"),
        ("--max-messages-per-second", "nan"),
        ("--max-keys", "0"),
        ("--max-keys", "1.5"),
        ("--max-snapshot-bytes", "0"),
        ("--max-log-bytes", "0"),
        ("--max-log-bytes", str(2**70)),
        ("--max-pinned-bytes", "many"),
        ("--max-channels", "0"),
        ("--max-channel-name-bytes", "0"),
        ("--channel-name-pattern", "[a-"),
        ("--max-inbound-messages-per-second", "-1"),
        ("--max-inbound-messages-per-second", "nan"),
        ("--max-connections", "0"),
        ("--max-connections-per-address", "x"),
        ("--max-handshakes", "0"),
        ("--handshake-seconds", "0"),
        ("--max-head-bytes", "0"),
        ("--origin", "https://example.org/"),
        ("--subprotocol", "a b"),
        ("--forwarded-allow-ips", "localhost"),
        ("--forwarded-allow-ips", "127.0.0.1 10.0.0.1"),
        ("--send-buffer-bytes", "-1"),
        ("--send-buffer-bytes", str(2**31)),
        ("--notsent-lowat-bytes", "x"),
        ("--compression", "on"),
        ("--compression-level", "0"),
        ("--compression-level", "10"),
        ("--compress-min-bytes", "-1"),
        ("--window-bits", "8"),
        ("--window-bits", "16"),
        ("--reset-messages", "0"),
        ("--max-window-bytes", "0"),
    ],
    ids=" ".join,
)
def test_a_limit_that_cannot_be_is_named_and_the_status_is_2(option):
    status, output, errors = fastbcast_command("serve", "--port", "0", *option)
    assert (status, output) == (2, "")
    assert "Traceback" not in errors
    *usage, line = errors.splitlines()
    assert option[0].strip("-") in line.replace("_", "-")
    if usage:  # click's own: how the command is used, then what is wrong
        assert line.startswith("Error: ")
    else:
        assert_one_line(errors)
