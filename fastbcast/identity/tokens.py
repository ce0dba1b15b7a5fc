"""Token files: who may subscribe and publish at `fastbcast serve`.

    # one token a line; behind it the channels that it opens, as patterns; without them it opens all
    DuCWbwGSsEmPbPuTxLvO9Q
    kA3vY0cJt1xgX2m7nQh5Zw prices* news

Invariants

1. Of a token only the digest is kept, and no error, log line or repr shows one.
2. What a client presents is compared with every token there is, each comparison in constant time.
3. A reload takes all files or none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from hmac import compare_digest
from itertools import takewhile
from pathlib import Path

from ..exceptions import BadTokenFile, Reject
from ..grant import Grant
from ..logging import log_event
from ..typing import Request

__all__ = ["Tokens", "is_token", "read_lines"]

MIN_TOKEN_CHARACTERS = 16
"""Of which each has at most 6 bits: what is shorter can be guessed."""
MAX_TOKENS = 1_000
"""In one file: each costs every handshake a comparison. Who has more of them has an authorize hook of their own."""
MAX_FILE_BYTES = 1024 * 1024

is_token = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch
"""Whether `Authorization: Bearer` can carry it (RFC 6750 section 2.1)."""

_Entries = tuple[tuple[bytes, tuple[str, ...]], ...]
"""A token's digest, and the patterns of its channels."""


class Tokens:
    """An authorize hook: `hub.authorize(Tokens(subscribe_path, publish_path))`.

    With `subscribe_path` only who holds a token of that file may subscribe, with `publish_path` only who holds one of
    that file may publish; a token may be in both. Without `publish_path` nobody may publish, or with `relay` everybody
    where they may subscribe. Raises BadTokenFile.
    """

    def __init__(
        self,
        subscribe_path: Path | str | None = None,
        publish_path: Path | str | None = None,
        *,
        relay: bool = False,
    ) -> None:
        self._subscribe_path = subscribe_path
        self._publish_path = publish_path
        self._relay = relay
        self._without_files = None if relay else Grant(publish=())
        self._read()

    def reload(self) -> bool:
        """Read the files again; if one is bad, log why, keep all tokens as they were, and return False.

        Clients that are connected keep the rights that they came in with.
        """
        try:
            self._read()
        except BadTokenFile as error:
            log_event(logging.ERROR, "tokens_not_reloaded", reason=str(error))
            return False
        return True

    def _read(self) -> None:
        subscribers = () if self._subscribe_path is None else _read_file(Path(self._subscribe_path))
        publishers = () if self._publish_path is None else _read_file(Path(self._publish_path))
        self._subscribers, self._publishers = subscribers, publishers

    def __call__(self, request: Request) -> Grant | None:
        """Return what the request's token allows; Reject(401) if there is none where one is needed, or a wrong one."""
        if self._subscribe_path is None and self._publish_path is None:
            return self._without_files
        token = request.token
        digest = _digest(token or "")
        subscribe, publish = _find(self._subscribers, digest), _find(self._publishers, digest)
        # One that is wrong is told so also where none is needed to listen: its holder wants more than that.
        is_needed = self._subscribe_path is not None or token is not None
        if is_needed and not subscribe and not publish:
            raise Reject(401, "a token is needed" if token is None else "not a token of this server")
        if self._subscribe_path is None:
            subscribe = ("*",)
        if self._publish_path is None and self._relay:
            publish = subscribe
        return Grant(subscribe=subscribe, publish=publish)


def _read_file(path: Path) -> _Entries:
    entries: dict[bytes, tuple[str, ...]] = {}
    for line_number, token, patterns in read_lines(path):
        digest = _digest(token)
        if len(token) < MIN_TOKEN_CHARACTERS:
            reason = f"the token in line {line_number} has less than {MIN_TOKEN_CHARACTERS} characters"
            raise BadTokenFile(path, reason)
        if any(pattern.strip("/") != pattern for pattern in patterns):
            reason = f"a pattern in line {line_number} begins or ends with a slash, as no channel of a path does"
            raise BadTokenFile(path, reason)
        if digest in entries:
            raise BadTokenFile(path, f"the token in line {line_number} is there already")
        entries[digest] = patterns
    if len(entries) > MAX_TOKENS:
        raise BadTokenFile(path, f"it has more than {MAX_TOKENS} tokens")
    return tuple(entries.items())


def read_lines(path: Path) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return the number, the token and the patterns of each line that has one, at least one; or raise BadTokenFile."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise BadTokenFile(path, error.strerror or "it cannot be read") from None
    except UnicodeDecodeError:
        raise BadTokenFile(path, "it is not UTF-8 text") from None
    if len(data) > MAX_FILE_BYTES:
        raise BadTokenFile(path, f"it has more than {MAX_FILE_BYTES} bytes")
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        log_event(logging.WARNING, "token_file_open_to_all", path=path, advice="chmod o=")
    lines = []
    for line_number, line in enumerate(text.splitlines(), 1):
        words = list(takewhile(lambda word: not word.startswith("#"), line.split()))
        if not words:
            continue
        if not is_token(words[0]):
            raise BadTokenFile(path, f"the token in line {line_number} has characters that no token has")
        lines.append((line_number, words[0], tuple(words[1:]) or ("*",)))
    if not lines:
        raise BadTokenFile(path, "there is no token in it")
    return lines


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; of a FIFO that nobody writes to, which would be waited for here, that is its end."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _find(entries: _Entries, digest: bytes) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for known, patterns in entries:
        if compare_digest(known, digest):
            found = patterns
    return found
