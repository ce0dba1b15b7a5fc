"""TLS: the same rules as without it, certificates, and handshakes that fail."""

import asyncio
import functools
import logging
import re
import signal
import ssl
import sys
from contextlib import closing

import pytest
import test_bad_input
import test_client
import test_conflate
import test_keepalive
import test_policies
import test_slow_clients
import test_stalls
import websockets
from raw_client import RawClient, ask, get, handshake, serving
from reference import BINARY, CLOSE, client_frame
from support import connections, stall, subscribed, until

from fastbcast import Hub, serve
from fastbcast.server.tls import MAX_ANSWER_BYTES, RECORD_BYTES, Tls, make_context
from fastbcast.testing import BroadcastServer

KIB = 1024
UPLOADS, MESSAGES = 2, 20


@pytest.fixture
def files(authority, tmp_path):
    """Paths of a certificate and its key."""
    return write_certificate(authority, tmp_path, "first")


def write_certificate(authority, folder, name):
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    certificate.private_key_pem.write_to_path(key)
    for index, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(cert, append=index > 0)
    return cert, key


# The data path: what is promised without TLS is promised with it.

RULES = [
    (test_slow_clients.test_a_stalled_client_gets_everything_once_it_reads_again_even_on_an_idle_channel, ()),
    (test_slow_clients.test_a_frame_larger_than_the_socket_takes_is_finished_by_the_transport, ()),
    (test_slow_clients.test_a_client_blocked_on_one_channel_gets_nothing_of_another_into_the_middle_of_a_frame, ()),
    (test_slow_clients.test_pongs_direct_messages_and_close_come_at_frame_boundaries, ()),
    (test_slow_clients.test_a_direct_message_follows_what_was_published_before_it, ()),
    (test_slow_clients.test_a_client_that_never_reads_is_evicted_and_the_others_get_everything, ()),
    (test_slow_clients.test_an_evicted_client_that_reads_again_finds_the_close, ()),
    (test_slow_clients.test_a_burst_far_above_the_limit_evicts_nobody_who_reads, ()),
    (test_slow_clients.test_direct_messages_to_a_stalled_client_are_bounded, ()),
    *((test_stalls.test_who_takes_nothing_is_closed_under_every_policy_though_nothing_is_published, (policy,))
      for policy in ("evict", "skip", "latest", "conflate")),
    (test_stalls.test_who_takes_a_little_now_and_then_is_not_stalled_until_it_stops, ()),
    (test_stalls.test_a_close_that_is_not_taken_becomes_an_abort_after_close_seconds, ()),
    (test_policies.test_a_skipper_that_reads_again_misses_nothing_more, ("skip",)),
    (test_policies.test_a_client_may_be_on_channels_of_every_policy_at_once, ()),
    (test_policies.test_a_close_of_a_client_that_is_behind_follows_the_frame_it_was_cut_in, ("evict",)),
    (test_conflate.test_more_keys_than_one_send_takes_all_come_in_order, ()),
    (test_client.test_a_peer_that_does_not_even_read_the_close_is_aborted_too, ()),
    (test_keepalive.test_a_silent_client_is_pinged_again_and_again_and_stays, ()),
    (test_keepalive.test_a_client_that_answers_nothing_is_closed_with_1011, ()),
    (test_keepalive.test_a_blocked_client_is_neither_pinged_nor_given_up, ()),
    (test_bad_input.test_a_client_that_goes_on_sending_after_its_error_gets_the_close_and_is_cut_off, ()),
    (test_bad_input.test_what_came_before_an_error_in_the_same_read_is_handled, ()),
]


@pytest.mark.parametrize(("test", "arguments"), RULES, ids=lambda value: getattr(value, "__name__", "")[5:])
def test_a_rule_holds(run, tls, monkeypatch, test, arguments):
    monkeypatch.setattr(sys.modules[test.__module__], "serve", functools.partial(serve, ssl=tls[0]), raising=False)
    run(test(*arguments))


async def test_a_message_is_not_written_while_it_waits_among_others_for_the_socket(tls):
    """Several frames are encrypted at once: the first of them waits as well as the last."""

    hub = Hub()
    async with connections(hub, "/x", receive_buffer_bytes=4 * KIB, send_buffer_bytes=4 * KIB) as (raw, client):
        while not client.is_writing_paused:
            seq = hub.publish("x", bytes(20 * KIB))
            asked = asyncio.create_task(hub.channel("x").flushed(seq))
            await asyncio.sleep(0)  # it asks
            for _ in range(2):
                hub.publish("x", bytes(20 * KIB))
            await asyncio.sleep(0)
        assert client.lag.messages == 3
        assert client.lag.bytes >= 60 * KIB - 20 * KIB
        assert not asked.done()
        await raw.read_frames(seq + 2)
        assert (await asked).written == 1
        assert client.lag.messages == 0


async def test_a_client_that_does_not_read_costs_one_chunk_of_ciphertext(tls):
    hub = Hub()
    hub.configure("x", policy="latest", max_lag_bytes=1, max_burst_bytes=0)
    async with connections(hub, "/x", receive_buffer_bytes=4 * KIB, send_buffer_bytes=4 * KIB) as (_, client):
        await stall(hub, "x", 10 * KIB)
        for _ in range(300):
            hub.publish("x", bytes(10 * KIB))
            await asyncio.sleep(0)
        assert 0 < client.lag.bytes < 80 * KIB


@pytest.mark.parametrize("size", [0, 1, 125, RECORD_BYTES - 1, RECORD_BYTES, 70_000, 1024 * KIB])
async def test_messages_of_every_size_in_both_directions(tls, size):
    hub = Hub()
    hub.on_message(lambda client, message: hub.publish("x", message))
    server_tls, client_tls = tls
    async with (
        serve(hub, ssl=server_tls) as server,
        websockets.connect(f"wss://localhost:{server.port}/x", ssl=client_tls, max_size=None) as client,
        websockets.connect(f"wss://localhost:{server.port}/x", ssl=client_tls, max_size=None) as other,
    ):
        await subscribed(hub, "x", 2)
        messages = [bytes([number]) * size for number in range(20)]
        for message in messages:
            await client.send(message)
            for reader in (client, other):     # at once: one that did not read would be evicted
                assert await reader.recv() == message
        await client.close(3000, "bye")
        assert client.close_code == 3000
        await subscribed(hub, "x", 1)


async def test_what_was_decrypted_while_reading_was_paused_is_not_forgotten(tls):
    """Many records come in one read, and the first message fills the inbox: nothing more will come to wake it up."""

    hub = Hub(max_inbox_messages=1)
    received = []

    @hub.on_message
    async def _(client, message):
        await asyncio.sleep(0)
        received.append(message)

    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port, "/x")) as raw:
            messages = [b"%d" % number for number in range(50)]
            for message in messages:
                raw.tls.write(client_frame(BINARY, message))
            await asyncio.get_running_loop().sock_sendall(raw.sock, raw.outgoing.read())
            await until(lambda: len(received) == 50)
            assert received == messages


async def test_the_end_is_announced_before_the_connection_is_closed(tls):
    async with serving(Hub()) as server:
        with closing(await RawClient.connect(server.port)) as raw:
            await raw.send_frame(CLOSE, b"\x03\xe8")
            assert await raw.read_close() == (1000, "")
            assert raw.tls.read(1) == b""  # close_notify; without one it would be SSLWantReadError


async def test_a_request_that_is_no_handshake_is_answered(tls):
    async with serving(Hub(), page=True) as server:
        status, _, body = await ask(server.port, get("/"))
        assert status == 200
        assert b"<html" in body.lower()


async def test_servers_in_two_threads_do_not_read_into_one_buffer(tls):
    async def upload(server):
        with closing(await RawClient.connect(server.port)) as raw:
            for _ in range(MESSAGES):
                await raw.send(message)
            await raw.send_frame(CLOSE, b"\x03\xe8")
            assert await raw.read_close() == (1000, "")

    message = client_frame(BINARY, bytes(1024 * KIB))
    with BroadcastServer() as first, BroadcastServer() as second:
        for server in (first, second):
            server.call(setattr, server.server, "ssl", tls[0])
        await asyncio.gather(*(upload(server) for server in (first, second) * UPLOADS))
        for server in (first, second):
            assert server.call(server.server.stats)["refused"] == {}
            assert server.call(server.hub.stats)["received_messages"] == UPLOADS * MESSAGES


async def test_a_client_that_answers_the_close_and_is_gone_is_no_error(tls, caplog):
    hub = Hub()
    hub.on_message(lambda client, message: client.close())
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port)) as raw:
            await raw.send_frame(BINARY, b"close")
            assert len(await raw.read_frames(1)) == 1
            raw.send_now(client_frame(CLOSE, b"\x03\xe8"))
        await until(lambda: not server.stats()["connections"])
    assert caplog.records == []


# Handshakes that fail.


@pytest.mark.parametrize(
    "data",
    [get(), b"\x16\x03\x01\x00\x05hello", bytes(1000)],
    ids=["plain-http", "garbage-in-a-record", "zeros"],
)
def test_what_is_no_tls_is_refused_counted_and_not_logged(run, tls, data, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(RawClient, "client_tls", None)

    async def scenario():
        async with serving(Hub()) as server:
            with closing(await RawClient.connect_tcp(server.port)) as raw:
                await raw.send(data)
                while await raw.receive():
                    pass
            assert raw.data.startswith(b"HTTP/1.1 400 ") == (b"GET" in data)
            await until(lambda: not server.handshakes)
            assert server.refused == {"tls": 1}

    run(scenario())
    assert caplog.records == []


def test_a_client_that_does_not_trust_the_certificate_is_counted_and_not_logged(run, tls, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    async def scenario():
        async with serving(Hub()) as server:
            monkeypatch.setattr(RawClient, "client_tls", None)
            with closing(await RawClient.connect_tcp(server.port)) as raw:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await raw.start_tls(ssl.create_default_context())
                await asyncio.get_running_loop().sock_sendall(raw.sock, raw.outgoing.read())    # the alert
                await until(lambda: server.refused == {"tls": 1} and not server.handshakes)

    run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "a-part-of-a-hello"])
async def test_a_tls_handshake_has_handshake_seconds(tls, monkeypatch, data):
    monkeypatch.setattr(RawClient, "client_tls", None)

    async with serving(Hub(), handshake_seconds=0.05) as server:
        with closing(await RawClient.connect_tcp(server.port)) as raw:
            await raw.send(data)
            while await raw.receive():
                pass
        assert raw.data == b""
        await until(lambda: not server.handshakes)


async def test_the_handshake_of_http_goes_on_counting_where_that_of_tls_ended(tls):
    async with serving(Hub(), handshake_seconds=0.05) as server:
        with closing(await RawClient.connect_tcp(server.port)) as raw:
            await raw.send(handshake()[:-2])
            assert (await raw.read_head()).startswith("HTTP/1.1 408 ")
        await until(lambda: not server.handshakes)


def test_what_openssl_answers_to_a_client_that_does_not_read_is_bounded(tls):
    class Transport:
        is_aborted = False
        written = b""

        def write(self, data):
            self.written += data

        def is_closing(self):
            return self.is_aborted

        def abort(self):
            self.is_aborted = True

    failures = []
    layer = Tls(tls[0], asyncio.Protocol(), lambda: failures.append(1))
    layer.connection_made(transport := Transport())
    layer.pause_writing()
    layer._outgoing.write(bytes(MAX_ANSWER_BYTES))
    layer._answer()
    assert len(transport.written) == MAX_ANSWER_BYTES
    layer.resume_writing()
    for _ in range(2):
        assert not transport.is_aborted
        layer._outgoing.write(bytes(MAX_ANSWER_BYTES))
        layer._answer()
        layer.pause_writing()
    assert transport.is_aborted
    assert failures == [1]


# Certificates.


def test_a_context_speaks_tls_1_2_and_newer(files):
    assert make_context(*files).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("context", "error"), [(ssl.create_default_context(), ValueError), (("cert", "key"), TypeError), (True, TypeError)]
)
async def test_a_context_that_cannot_serve_is_refused_before_anybody_connects(context, error):
    with pytest.raises(error, match="ssl must be"):
        await serve(Hub(), ssl=context)
    async with serve(Hub()) as server:
        with pytest.raises(error, match="ssl must be"):
            server.ssl = context
        assert server.ssl is None


def test_files_that_do_not_do_are_told_apart(authority, files, tmp_path):
    cert, key = files
    _, other_key = write_certificate(authority, tmp_path, "other")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
    garbage = tmp_path / "garbage"
    garbage.write_text("no PEM")
    for arguments, sentence in [
        ((str(tmp_path / "none"), key), f"cannot read {tmp_path}/none: No such file or directory"),
        ((cert, str(tmp_path / "none")), f"cannot read {tmp_path}/none: No such file or directory"),
        ((cert, str(tmp_path)), f"cannot read {tmp_path}: Is a directory"),
        ((cert, other_key), f"the key in {other_key} does not belong to the certificate in {cert}"),
        ((str(garbage), key), f"no certificate in {garbage}, or no key in {key}, in PEM format"),
        ((cert, str(garbage)), f"no certificate in {cert}, or no key in {garbage}, in PEM format"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            make_context(*arguments)
    with pytest.raises(ValueError, match=r"encrypted|PEM"):
        make_context(cert, str(encrypted))


def test_the_command_reads_certificates_at_sighup_and_drops_nobody(run, serve_process, authority, files, tmp_path):
    cert, key = files
    server = serve_process("--relay", "--cert", cert, "--key", key, "--log-level", "error")
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)

    def dial():     # not websockets' synchronous client: its two threads share an SSLSocket, and some handshakes hang
        return websockets.connect(server.url, ssl=client_tls)

    async def serial_number():
        async with dial() as client:
            return client.transport.get_extra_info("peercert")["serialNumber"]

    def copy(source, target):
        with open(source) as file, open(target, "w") as old:
            old.write(file.read())

    async def scenario():
        async with dial() as client:
            first = await serial_number()
            new_cert, new_key = write_certificate(authority, tmp_path, "second")
            copy(new_cert, cert)
            server.process.send_signal(signal.SIGHUP)  # the key is still the old one: nothing changes
            assert b"does not belong to the certificate" in server.process.stderr.readline()
            assert await serial_number() == first
            copy(new_key, key)
            server.process.send_signal(signal.SIGHUP)
            while await serial_number() == first:
                pass
            await client.send("still here")
            assert await client.recv() == "still here"

    run(scenario())
    assert server.stop() == (0, "", "")


def test_the_command_wants_both_files_or_none(serve_process, files):
    cert, key = files
    for arguments in (("--cert", cert), ("--key", key)):
        with pytest.raises(AssertionError, match="--cert and --key belong together"):
            serve_process(*arguments)
    with pytest.raises(AssertionError, match=r"fastbcast: cannot read .*\.nowhere: No such file or directory\\n'"):
        serve_process("--cert", cert + ".nowhere", "--key", key)
