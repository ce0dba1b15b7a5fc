"""The rules of the opening handshake (RFC 6455 section 4.2): what a request must be, and the response it gets.

Nothing here reads or writes. Header names are lower case; lines of the same name have been joined by ", "
(RFC 9110 section 5.3), so a header that may come once only shows by a comma.

Invariants

1. Of the requests in which `find_request_fault` finds nothing, `find_fault` returns None for exactly those that may be
   answered with `encode_upgrade`.
2. A response names a subprotocol only if the client offered it (section 4.2.2). Of extensions: extensions.py.
"""

from fastbcast.header_fields import is_token, split_list
from fastbcast.http.authority import is_authority
from fastbcast.http.extensions import is_extension_list

from binascii import b2a_base64
from hashlib import sha1
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, parse_url

cdef bytes _RESPONSE_START = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
# What is appended to the client's key before it is hashed (section 1.3).
cdef bytes _KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Of a request target in the absolute form; a WebSocket client may write its own URL.
cdef frozenset _SCHEMES = frozenset([b"http", b"https", b"ws", b"wss"])


cdef bint _is_key(str text) except -1:
    """Whether it is 16 bytes in base64 (section 4.1)."""
    cdef Py_UCS4 character
    cdef Py_ssize_t i
    if len(text) != 24 or not text.endswith("=="):
        return False
    for i in range(22):
        character = text[i]
        if not (
            u"a" <= character <= u"z" or u"A" <= character <= u"Z" or u"0" <= character <= u"9" or character in u"+/"
        ):
            return False
    return True


cpdef tuple split_target(bytes target):
    """Return a request target's path, decoded, and query, as sent (RFC 9112 section 3.2); ValueError: malformed."""
    cdef bytes path = target
    cdef bytes query = b""
    cdef Py_ssize_t mark
    if target.find(b"#") >= 0:
        raise ValueError("a fragment is the client's own")
    if target.startswith(b"/"):
        mark = target.find(b"?")
        if mark >= 0:
            path, query = target[:mark], target[mark + 1 :]
    else:   # the absolute form, of requests to a proxy (section 3.2.2)
        try:
            url = parse_url(target)
        except HttpParserError as error:
            raise ValueError(str(error)) from None
        if url.schema is None or url.schema.lower() not in _SCHEMES:
            raise ValueError("neither a path nor a URL of HTTP")
        if url.userinfo is not None:    # RFC 9110 section 4.2.4
            raise ValueError("it has a user's name")
        path, query = url.path or b"/", url.query or b""
    if path.find(b"%") >= 0:    # one that begins no code is itself: browsers send it so
        path = unquote_to_bytes(path)
    return path.decode(), query.decode("latin-1")


cdef bint _has_token(str value, str token) except -1:
    # Most clients send the token alone; older Firefox and proxies send `keep-alive, Upgrade`.
    cdef str lowered = value.lower()
    return lowered == token or token in split_list(lowered)


cpdef str find_request_fault(dict headers, str http_version):
    """Say what is malformed in a request, whatever it asks for; None if nothing is."""
    cdef str host = headers.get("host")
    if host is None:
        if http_version == "1.1":
            return "a request has a Host header"
    elif not is_authority(host):    # RFC 9112 section 3.2: nor may there be two
        return "a request has one Host header, with a host and perhaps a port"
    if http_version == "1.0" and "transfer-encoding" in headers:    # section 6.1
        return "HTTP/1.0 has no Transfer-Encoding"
    return None


cpdef bint is_handshake(bytes method, dict headers) except -1:
    """Whether a request asks for the upgrade to websocket; one to another protocol need not be taken up, and then
    the request is answered as if it had not been offered (RFC 9110 section 7.8)."""
    return method == b"GET" and "upgrade" in headers and _has_token(headers["upgrade"], "websocket")


cpdef tuple find_fault(dict headers, str http_version):
    """Check a handshake as section 4.2.1 says.

    Returns how a wrong one is answered, the status and a short text; None if it is right.
    """
    if not _has_token(headers.get("connection", ""), "upgrade"):
        return HTTPStatus.BAD_REQUEST, "the Connection header lacks upgrade"
    if http_version != "1.1":
        return HTTPStatus.BAD_REQUEST, "a WebSocket handshake is HTTP/1.1"
    if "," in headers.get("sec-websocket-version", ""):     # section 11.3.5
        return HTTPStatus.BAD_REQUEST, "a handshake has one Sec-WebSocket-Version"
    if headers.get("sec-websocket-version") != "13":
        return HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"
    if not _is_key(headers.get("sec-websocket-key", "")):
        return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"
    if headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers:
        return HTTPStatus.BAD_REQUEST, "a WebSocket handshake has no body"
    if "sec-websocket-protocol" in headers and not all(map(is_token, _offers(headers))):
        return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Protocol must be a list of tokens"
    # Section 9.1: also if none would be used.
    if "sec-websocket-extensions" in headers and not is_extension_list(headers["sec-websocket-extensions"]):
        return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Extensions must be a list of extensions and their parameters"
    return None


cdef list _offers(dict headers):
    # Section 4.1: at least one, so that one empty line is no list.
    return split_list(headers["sec-websocket-protocol"]) or [""]


cpdef str choose_subprotocol(dict headers, spoken):
    """Return the first of `spoken` that the client offers; None if there is none, and then it goes on without.

    Names are compared as they are, upper and lower case differ.
    """
    if "sec-websocket-protocol" not in headers:
        return None
    offered = _offers(headers)
    for name in spoken:
        if name in offered:
            return name
    return None


cpdef bytes encode_upgrade(str key, str subprotocol=None, str extension=None):
    """Return the whole 101 response to a handshake with this Sec-WebSocket-Key (section 4.2.2)."""
    cdef bytes accept = b2a_base64(sha1(key.encode() + _KEY_SUFFIX, usedforsecurity=False).digest(), newline=False)
    cdef bytes more = b""
    if subprotocol is not None:
        more = b"\r\nSec-WebSocket-Protocol: " + subprotocol.encode()
    if extension is not None:
        more += b"\r\nSec-WebSocket-Extensions: " + extension.encode()
    return _RESPONSE_START + accept + more + b"\r\n\r\n"
