"""The headers of a request: what the rules of the handshake make of them must agree with what is obvious.

An input is the lines of a head, as `name: value`; a first line that is none of these is the request's target.
"""

import base64
import hashlib
import re
from urllib.parse import unquote_to_bytes

from reference import is_host

from fastbcast.http._rules import (
    choose_subprotocol,
    encode_upgrade,
    find_fault,
    find_request_fault,
    is_handshake,
    split_target,
)
from fastbcast.http.extensions import choose_deflate, is_extension_list
from fastbcast.http.origins import Origins
from fastbcast.http.proxies import TrustedProxies

ORIGINS = Origins(["https://example.org", "https://*.example.net"])
PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
SPOKEN = ("chat.v2", "chat.v1")


def read_headers(data):
    """Lower-case names, lines of the same name joined by ", ", as the handshake has them."""
    headers = {}
    for line in data.decode("latin-1").split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.lower(), value.strip(" \t\r")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def elements(headers, name):
    return [element.strip(" \t") for element in headers.get(name, "").split(",") if element.strip(" \t")]


def is_token(text):
    return re.fullmatch(r"[^\x00-\x20\x7f-\xff()<>@,;:\\\"/\[\]?={}]+", text)


def is_right(headers):
    """RFC 6455 section 4.2.1, word for word."""
    offers = elements(headers, "sec-websocket-protocol")
    key = headers.get("sec-websocket-key", "")
    try:
        has_key = len(base64.b64decode(key, validate=True)) == 16 and len(key) == 24
    except ValueError:
        has_key = False
    return (
        "host" in headers and is_host(headers["host"])
        and "websocket" in [element.lower() for element in elements(headers, "upgrade")]
        and "upgrade" in [element.lower() for element in elements(headers, "connection")]
        and has_key
        and headers.get("sec-websocket-version") == "13"
        and ("sec-websocket-protocol" not in headers or bool(offers))
        and all(map(is_token, offers))
        and set(headers.get("content-length", "0")) <= {"0"} and "transfer-encoding" not in headers
        and ("sec-websocket-extensions" not in headers or read_extensions(headers["sec-websocket-extensions"]) != [])
    )


def read_extensions(value):
    """What section 9.1 lists, each a name and its parameters; none if something is malformed."""
    extensions = []
    for element in filter(None, (element.strip(" \t") for element in value.split(","))):
        parts = []
        for part in element.split(";"):
            name, equals, argument = (piece.strip(" \t") for piece in part.partition("="))
            if argument.startswith('"') and argument.endswith('"') and len(argument) > 2:
                argument = re.sub(r"\\(.)", r"\1", argument[1:-1])
            if not is_token(name) or (equals and not (parts and is_token(argument))):
                return []
            parts.append((name, argument if equals else None))
        extensions.append((parts[0][0], parts[1:]))
    return extensions


def check(data):
    """AssertionError if a rule differs, or lets through what it must not."""
    headers = read_headers(data)
    check_target(data.partition(b"\n")[0])
    check_handshake(headers)
    check_extensions(headers)
    check_origin(headers)
    check_proxies(headers)


def check_target(target):
    try:
        path, query = split_target(target)
    except ValueError:
        return
    # Of both forms: what follows the authority, up to the first question mark, and what follows that.
    origin_form = re.sub(rb"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", b"", target).partition(b"#")[0]
    raw_path, _, raw_query = origin_form.partition(b"?")
    assert path == unquote_to_bytes(raw_path or b"/").decode(), (target, path)
    assert query == raw_query.decode("latin-1"), (target, query)


def check_handshake(headers):
    fault = find_request_fault(headers, "1.1")
    assert (fault is None) == ("host" in headers and is_host(headers["host"])), fault
    is_let_in = fault is None and is_handshake(b"GET", headers) and find_fault(headers, "1.1") is None
    assert is_let_in == is_right(headers)
    assert find_fault(headers, "1.0") is not None
    if is_right(headers):
        key, subprotocol = headers["sec-websocket-key"], choose_subprotocol(headers, SPOKEN)
        offers = elements(headers, "sec-websocket-protocol")
        assert subprotocol == next((name for name in SPOKEN if name in offers), None)
        head, blank, rest = encode_upgrade(key, subprotocol).partition(b"\r\n\r\n")
        assert (blank, rest) == (b"\r\n\r\n", b"")
        accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        assert b"Sec-WebSocket-Accept: " + accept in head.split(b"\r\n")


def check_extensions(headers):
    value = headers.get("sec-websocket-extensions", "")
    extensions = read_extensions(value)
    assert is_extension_list(value) == (extensions != []), value
    if not extensions:
        return
    deflate = choose_deflate(value, client_no_context_takeover=False)
    offers = [dict(parameters) for name, parameters in extensions if name == "permessage-deflate"]
    if deflate is None:
        assert {} not in offers, value  # whoever offers it plainly gets it
        return
    ((_, parameters),) = read_extensions(str(deflate))
    answer = dict(parameters)
    limits = {"server_no_context_takeover", "server_max_window_bits"}
    assert any(answer.items() <= offer.items() and limits & set(offer) <= set(answer) for offer in offers), value


def check_origin(headers):
    origin = headers.get("origin")
    if origin is not None and ORIGINS.allow(origin):
        assert origin.lower() == "https://example.org" or (
            origin.lower().startswith("https://") and origin.lower().endswith(".example.net")
        )


def check_proxies(headers):
    client = PROXIES.find_client(headers)
    if client is None or PROXIES.trust(client):
        return
    # It is what the nearest trusted proxy has written: nothing that a client puts before it counts.
    for forged in ("198.51.100.1", 'for=198.51.100.1;x="', '"'):
        told = {
            name: f"{forged}, {headers[name]}" for name in ("x-forwarded-for", "forwarded") if name in headers
        }
        assert PROXIES.find_client(told) == client, told
