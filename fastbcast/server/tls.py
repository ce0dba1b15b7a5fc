"""TLS between a socket's Transport and the protocol above it: records in, records out, and nothing kept.

    kernel <-> Transport <-(ciphertext)-> Tls <-(plaintext)-> Handshake, then Client

asyncio's and uvloop's own TLS have a buffer of their own between the two, with limits of its own: what they say of a
full socket comes one write late, and of a stalled one nothing can be seen. Here `write` encrypts at once and gives the
Transport all of it, so `pause_writing` and `get_write_buffer_size` mean what they mean without TLS (see _wire.pyx).

Invariants

1. Between two calls the outgoing BIO is empty: what waits is in the Transport, and is counted there.
2. What OpenSSL answers by itself while the peer reads nothing (TLS 1.3 key updates) is bounded by MAX_ANSWER_BYTES.
3. During the handshake nothing from above is written; the protocol's own deadline ends a slow one.
4. Whatever fails in TLS ends this connection: counted, logged at debug level, no traceback.
5. What begins like a request of plain HTTP is passed on as it is, and the Handshake refuses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any, cast

from .._guard import guarded, lending
from ..failures import fail_connection
from ..logging import log_event

RECORD_BYTES = 16 * 1024
"""The most that one TLS record holds (RFC 8446 section 5.1): what is encrypted at once, so that BIOs stay small."""
MAX_ANSWER_BYTES = 16 * 1024
"""What OpenSSL may answer to a peer that reads nothing; a key update is answered with 27 bytes."""
HANDSHAKE_RECORD = 22
"""The first byte of a ClientHello (RFC 8446 section 5.1). Old clients may begin with one above 127, that of SSL 2."""
BEGINS_PLAIN_HTTP = ascii_uppercase
"""Of a method. Other bytes that cannot be TLS end the connection at once."""


class _Thread(threading.local):
    """What all connections of one thread read into, one after the other.

    Ciphertext lies there only between `get_buffer` and `buffer_updated`, which no other call of the same event loop
    comes between. Another thread's may come between: uvloop and asyncio both read without the GIL.
    """

    def __init__(self) -> None:
        self.received = memoryview(bytearray(RECORD_BYTES))


_thread = _Thread()


def make_context(cert: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and newer with the certificate chain and the key of two PEM files.

    Raises ValueError, with a sentence for the user, if a file cannot be read or the two do not fit.
    """
    for path in (cert, key):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])

    def no_passphrase() -> str:
        raise ValueError(f"the key in {key} is encrypted; it must be without a passphrase")

    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key in {key} does not belong to the certificate in {cert}") from None
        raise ValueError(f"no certificate in {cert}, or no key in {key}, in PEM format") from None
    return context


class Tls(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of a socket's Transport, and the Transport of `protocol`."""

    def __init__(self, context: ssl.SSLContext, protocol: asyncio.BaseProtocol, on_failure: Callable[[], None]) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._on_failure = on_failure
        self._transport: asyncio.Transport
        self._protocol: Any = None
        self._has_begun = False     # something has come
        self._is_plain = False      # and it was no TLS, but may be HTTP
        self._is_open = False       # the handshake is done
        self._is_ended = False      # close_notify was sent: nothing may follow
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._answer_bytes = 0      # that OpenSSL wrote by itself since the peer last read something
        self.set_protocol(protocol)

    # The protocol of the socket's Transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the protocol at once: the TLS handshake is a part of the one that it has a deadline for."""
        self._transport = cast("asyncio.Transport", transport)
        self._protocol.connection_made(self)

    get_buffer = lending(_thread)   # all connections of a thread share it

    @guarded
    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt what came, and give it to the protocol."""
        received = _thread.received[:nbytes]
        if not self._has_begun:
            self._has_begun = True
            first = received[0]
            if chr(first) in BEGINS_PLAIN_HTTP:
                self._is_plain = True
                self._protocol.expect_plain_http()
            elif first != HANDSHAKE_RECORD and first < 128:
                self._fail_tls("NOT_TLS")
                return
        if self._is_plain:
            self._protocol.data_received(bytes(received))
            return
        self._incoming.write(received)
        if self._is_open or self._shake_hands():
            self._read()

    @guarded
    def eof_received(self) -> bool:
        """Pass on the end of the stream; the protocol says whether it still has something to write."""
        return (self._is_open or self._is_plain) and bool(self._protocol.eof_received())

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass it on, and forget whom: two that know each other would keep OpenSSL's state until a collection."""
        protocol, self._protocol = self._protocol, None
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._is_writing_paused = True
        self._protocol.pause_writing()

    @guarded
    def resume_writing(self) -> None:
        """Pass it on."""
        self._is_writing_paused = False
        self._answer_bytes = 0
        self._protocol.resume_writing()

    def _shake_hands(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._answer()
            return False
        except ssl.SSLError as error:
            self._fail_tls(error.reason or str(error))
            return False
        self._is_open = True
        return True

    def _read(self) -> None:
        """Give the protocol what is there, until it has enough."""
        while not (self._is_reading_paused or self._transport.is_closing()):
            try:
                if self._is_buffered:
                    buffer = self._protocol.get_buffer(-1)
                    size: int = self._ssl.read(len(buffer), buffer)  # type: ignore[assignment]  # typeshed
                else:
                    size = len(data := self._ssl.read(RECORD_BYTES))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:  # what an end is called once ours was sent
                size = 0
            except ssl.SSLError as error:
                self._fail_tls(error.reason or str(error))
                return
            if not size:    # the peer's close_notify, of its direction alone (RFC 8446 section 6.1)
                if not self._protocol.eof_received():
                    self.close()
                return
            if self._is_buffered:
                self._protocol.buffer_updated(size)
            else:
                self._protocol.data_received(data)
        self._answer()

    def _answer(self) -> None:
        """Send what OpenSSL wrote by itself: handshake, session tickets, key updates, alerts."""
        answer = self._outgoing.read()
        if answer and not (self._is_ended or self._transport.is_closing()):
            self._answer_bytes += len(answer)
            if self._is_writing_paused and self._answer_bytes > MAX_ANSWER_BYTES:
                self._on_failure()
                self._transport.abort()
            else:
                self._transport.write(answer)

    def _fail(self, error: BaseException) -> None:
        fail_connection(self._transport, error)

    def _fail_tls(self, reason: str) -> None:
        if not self._transport.is_closing():
            self._on_failure()
            log_event(logging.DEBUG, "tls_failed", reason=reason)
            self._answer()
            self._transport.abort()

    # The Transport of the protocol.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Answer what asyncio's TLS Transports answer, `ssl_object` among it."""
        if name == "ssl_object":
            return self._ssl
        if name == "sslcontext":
            return self._ssl.context
        if name == "peercert":
            return self._ssl.getpeercert()
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes from now on to `protocol`."""
        is_buffered = hasattr(protocol, "get_buffer")
        self._protocol, self._is_buffered = protocol, is_buffered   # both or, if a signal handler raises, none
        if self._is_writing_paused:
            self._protocol.pause_writing()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who gets what comes."""
        return cast("asyncio.BaseProtocol", self._protocol)

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt `data` now; it is not kept. During the handshake it is dropped."""
        if self._is_plain:
            self._transport.write(data)
            return
        if not self._is_open or self._is_ended or self._transport.is_closing():
            return
        view = memoryview(data)
        records = []
        try:
            for start in range(0, len(view), RECORD_BYTES):
                self._ssl.write(view[start : start + RECORD_BYTES])
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail_tls(error.reason or str(error))
        else:
            self._transport.write(records[0] if len(records) == 1 else b"".join(records))

    def can_write_eof(self) -> bool:
        """Whether one direction can be closed alone (RFC 8446 section 6.1)."""
        return self._is_open or self._is_plain

    def write_eof(self) -> None:
        """Send close_notify behind what waits, and go on reading."""
        if not (self._is_ended or self._transport.is_closing()):
            self._notify()
            self._transport.write_eof()

    def _notify(self) -> None:
        """Send close_notify, once."""
        if self._is_open and not self._is_ended:
            with contextlib.suppress(ssl.SSLError):     # it would like the peer's close_notify too, but need not
                self._ssl.unwrap()
            self._answer()
        self._is_ended = True

    def close(self) -> None:
        """Send close_notify behind what waits, then close; at once during the handshake."""
        if not self.can_write_eof():
            self._transport.abort()
            return
        self._notify()
        self._transport.close()     # not `write_eof`, whose shutdown(2) asyncio lets fail if the peer is gone

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Give the protocol nothing more for now."""
        self._is_reading_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on; what was decrypted before comes first."""
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._read)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes of ciphertext wait."""
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits of the socket's Transport: there is no other buffer."""
        self._transport.set_write_buffer_limits(high, low)
