"""Messages to RFC 6455 server frames: the only place where a frame's bytes are made.

    message --acquire_payload--> Payload (borrowed bytes) --write_frame--> header + payload

Invariants

1. A frame made here is whole: FIN=1, no mask (section 5.1: a server never masks), RSV=0 unless it is compressed
   (_deflate.pyx).
2. The payload is copied exactly once, from the caller's memory to where the frame will live.
3. Whatever is wrong with a message is raised by `acquire_payload`, before a byte has been written:
   a message that is refused has queued nothing.
4. The length is in its shortest form: 2, 4 or 10 bytes of header (section 5.2).

`acquire_payload` and `release_payload` need the GIL; the rest is pure C.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from enum import IntEnum

from fastbcast.exceptions import MessageTooBig


cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    const char* PyUnicode_AsUTF8AndSize(object unicode, Py_ssize_t* size) except NULL


CloseCode = IntEnum(
    "CloseCode",
    {
        "NORMAL_CLOSURE": NORMAL_CLOSURE,
        "GOING_AWAY": GOING_AWAY,
        "PROTOCOL_ERROR": PROTOCOL_ERROR,
        "UNSUPPORTED_DATA": UNSUPPORTED_DATA,
        "NO_STATUS_RECEIVED": NO_STATUS_RECEIVED,
        "ABNORMAL_CLOSURE": ABNORMAL_CLOSURE,
        "INVALID_DATA": INVALID_DATA,
        "POLICY_VIOLATION": POLICY_VIOLATION,
        "MESSAGE_TOO_BIG": MESSAGE_TOO_BIG,
        "MANDATORY_EXTENSION": MANDATORY_EXTENSION,
        "INTERNAL_ERROR": INTERNAL_ERROR,
        "SERVICE_RESTART": SERVICE_RESTART,
        "TRY_AGAIN_LATER": TRY_AGAIN_LATER,
        "BAD_GATEWAY": BAD_GATEWAY,
    },
    module=__name__,
)
CloseCode.__doc__ = """Why a connection ends: the code of a CLOSE (RFC 6455 section 7.4.1, and the registry that it made)."""


cdef int acquire_payload(object message, object text, Payload* payload) except -1:
    """Borrow the bytes of `message`; the caller must `release_payload` them.

    `text` is None (a str is text, a buffer is binary), or says which of the two a buffer's bytes are.
    A str is encoded here at most once: CPython keeps the UTF-8 form with the str (PyUnicode_AsUTF8AndSize).

    Raises TypeError for what is neither str nor C-contiguous buffer, ValueError for text that is not
    UTF-8 (section 5.6; a lone surrogate is UnicodeEncodeError, a ValueError).
    """
    payload.has_view = False
    if isinstance(message, str):
        if text is not None and not text:
            raise TypeError("text=False needs a bytes-like message, got str")
        payload.opcode = OPCODE_TEXT
        payload.data = <const uint8_t*>PyUnicode_AsUTF8AndSize(message, &payload.len)
        return 0
    if not PyObject_CheckBuffer(message):
        raise TypeError(f"a message must be str or a bytes-like object, got {type(message).__name__}")
    try:
        PyObject_GetBuffer(message, &payload.view, PyBUF_SIMPLE)
    except BufferError as error:
        raise ValueError(f"a bytes-like message must be C-contiguous: {error}") from None
    payload.has_view = True
    payload.data = <const uint8_t*>payload.view.buf
    payload.len = payload.view.len
    payload.opcode = OPCODE_BINARY
    if text:
        payload.opcode = OPCODE_TEXT
        try:
            PyUnicode_DecodeUTF8(<char*>payload.data, payload.len, NULL)
        except UnicodeDecodeError:
            release_payload(payload)
            raise
    return 0


cdef void borrow_payload(const uint8_t* frame, Py_ssize_t frame_bytes, Payload* payload) noexcept:
    """Borrow the payload of a frame that was made here; there is nothing to release."""
    cdef Py_ssize_t header_bytes = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
    payload.opcode = frame[0] & 0x0F
    payload.data = frame + header_bytes
    payload.len = frame_bytes - header_bytes
    payload.has_view = False


cdef void release_payload(Payload* payload) noexcept:
    if payload.has_view:
        payload.has_view = False
        PyBuffer_Release(&payload.view)


cdef Py_ssize_t write_header(uint8_t* out, uint8_t first_bits, uint64_t payload_len) noexcept nogil:
    """Write the header of a whole frame at `out`; returns its size. `first_bits`: opcode and reserved bits."""
    cdef int shift
    out[0] = FIN | first_bits
    if payload_len < 126:
        out[1] = <uint8_t>payload_len
        return 2
    if payload_len < 65536:
        out[1] = 126
        out[2] = <uint8_t>(payload_len >> 8)
        out[3] = <uint8_t>payload_len
        return 4
    out[1] = 127
    for shift in range(8):
        out[2 + shift] = <uint8_t>(payload_len >> (56 - 8 * shift))
    return 10


cdef void write_frame(uint8_t* out, uint8_t opcode, const uint8_t* data, uint64_t payload_len) noexcept nogil:
    """Write one frame at `out`. The caller guarantees room for `frame_len(payload_len)` bytes."""
    out += write_header(out, opcode, payload_len)
    if payload_len:  # memcpy must not be given NULL, not even for no bytes
        memcpy(out, data, payload_len)


cdef bytes make_frame(uint8_t opcode, const uint8_t* data, Py_ssize_t payload_len):
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, frame_len(payload_len))
    write_frame(<uint8_t*>PyBytes_AS_STRING(frame), opcode, data, payload_len)
    return frame


cpdef bytes encode(object message, object text=None, Py_ssize_t max_message_bytes=PY_SSIZE_T_MAX):
    """Return `message` as one data frame: a str as text, a bytes-like object as binary.

    `text` (bool) says so for a bytes-like object; its bytes must then be UTF-8.
    Raises TypeError, ValueError or MessageTooBig as `publish` does.
    """
    cdef Payload payload
    acquire_payload(message, text, &payload)
    try:
        if payload.len > max_message_bytes:
            raise MessageTooBig(payload.len, max_message_bytes)
        return make_frame(payload.opcode, payload.data, payload.len)
    finally:
        release_payload(&payload)


cdef bytes _encode_control(uint8_t opcode, object payload):
    cdef const uint8_t[::1] data = payload
    if data.shape[0] > MAX_CONTROL_PAYLOAD_BYTES:
        raise ValueError(f"a control frame carries at most 125 bytes, got {data.shape[0]} (RFC 6455 section 5.5)")
    return make_frame(opcode, &data[0] if data.shape[0] else NULL, data.shape[0])


def encode_ping(payload=b""):
    """Return a ping frame; ValueError above 125 bytes (section 5.5.2)."""
    return _encode_control(OPCODE_PING, payload)


def encode_pong(payload=b""):
    """Return a pong frame; ValueError above 125 bytes (section 5.5.3)."""
    return _encode_control(OPCODE_PONG, payload)


cpdef bytes encode_close(code, str reason=""):
    """Return a close frame with `code` and `reason` (section 5.5.1).

    Raises ValueError for a code that may not be sent (section 7.4) and for a reason above 123 bytes.
    """
    if not is_sendable_close_code(code):
        raise ValueError(f"close code {code} may not be sent (RFC 6455 section 7.4)")
    return _encode_control(OPCODE_CLOSE, code.to_bytes(2, "big") + reason.encode())


cpdef bint is_sendable_close_code(code) except -1:
    """Whether an endpoint may send `code`: section 7.4, and 1012 to 1014 of the IANA registry.

    1004 to 1006 and 1015 are reserved for what never crosses the wire.
    """
    return (
        NORMAL_CLOSURE <= code <= UNSUPPORTED_DATA or INVALID_DATA <= code <= BAD_GATEWAY or 3000 <= code <= 4999
    )
