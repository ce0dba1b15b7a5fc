"""What commands and the load generator do with the URL of a server: its user and password, and how it is shown."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit

__all__ = ["hide_secrets", "hide_secrets_in", "prepare_url"]

_URL = re.compile(r"\w+://[^\s'\"]*[^\s'\":]")
_PRINTABLE = "".join(map(chr, range(33, 127)))
_NOT_OF_A_URL = re.compile(r"[\0- \x7f]")
_USER = re.compile(r"//[^\s/?#]*@")


def hide_secrets(url: str) -> str:
    """The URL with `***` for a user with a password, and for a query.

    The query is hidden whole: its names are the server's, and nobody else can say which of its values is a token.
    """
    start, mark, _ = _USER.sub("//***@", url, count=1).partition("?")
    return f"{start}?***" if mark else start


def hide_secrets_in(text: str) -> str:
    """The text with each URL that it quotes as `hide_secrets` has it."""
    return _URL.sub(lambda found: hide_secrets(found[0]), text)


def prepare_url(url: str) -> tuple[str, str | None]:
    """The URL as it is sent, in ASCII and without a user; and the user as `Authorization` (RFC 7617), None without one.

    Raises ValueError for blanks and control characters, and for a fragment (RFC 6455 section 3: there is none).
    """
    if _NOT_OF_A_URL.search(url):
        raise ValueError("a URL has no blanks and no control characters")
    parts = urlsplit(url)
    if parts.fragment:
        raise ValueError("a WebSocket URL has no fragment (#)")
    user, at, netloc = parts.netloc.rpartition("@")
    if not netloc.isascii():
        netloc = netloc.encode("idna").decode()
    path, query = (quote(part, _PRINTABLE) for part in (parts.path, parts.query))   # what is quoted stays so
    prepared = urlunsplit((parts.scheme, netloc, path, query, ""))
    if not at:
        return prepared, None
    name, _, password = user.partition(":")
    pair = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
    return prepared, f"Basic {base64.b64encode(pair).decode()}"
