"""Listening sockets: of addresses, of a file, or made by somebody else; and the files that go with them.

Invariants

1. A socket file of a server that lives is never replaced; that of a dead one is.
2. A socket file is removed by the server that made it (or took it over), and only if it is still that file.
3. A descriptor that was inherited is checked before it is used: it listens, or ValueError.
4. A socket belongs to one Listeners: RuntimeError for the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from ..logging import log_event

_Identity = tuple[int, int]

_in_use: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""The sockets of all Listeners. A loop has one reader for each: a second server there would silence the first."""

HANDOVER_BACKLOG = 16
"""Processes that may wait for one to hand over."""
FIRST_SYSTEMD_FD = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""Of an address: this machine does not have it."""


class Listeners:
    """Listening sockets, non-blocking, that belong together."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self.sockets: list[socket.socket] = []
        self._files: dict[str, _Identity] = {}
        given = list(sockets)
        for listener in given:
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ValueError(f"a socket that does not listen yet: {listener!r}")
        if not _in_use.isdisjoint(given):
            raise RuntimeError("a server listens on this socket already")
        for listener in given:
            self._add(listener)

    def _add(self, listener: socket.socket) -> None:
        _in_use.add(listener)
        self.sockets.append(listener)
        listener.setblocking(False)
        listener.set_inheritable(False)

    # Binding.

    async def bind_addresses(self, host: str | None, port: int, backlog: int) -> None:
        """Bind every address of `host` that this machine has; OSError (with nothing left bound) if one cannot be.

        Where IPv6 is turned off, /etc/hosts often still says that localhost is ::1, too: that one is passed over.
        """
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        absent: list[tuple[Any, OSError]] = []
        try:
            for family, _, _, _, address in dict.fromkeys(infos):
                if port == 0 and self.sockets:  # the same free port on every address
                    address = (address[0], self.sockets[0].getsockname()[1], *address[2:])
                try:
                    self._bind_address(family, address, backlog)
                except OSError as error:
                    if error.errno not in ABSENT:
                        raise
                    absent.append((address[0], error))
            if not self.sockets:
                raise absent[0][1]
        except BaseException:
            self.close()
            raise
        for name, reason in absent:
            log_event(logging.INFO, "address_skipped", address=name, reason=reason.strerror)

    def _bind_address(self, family: int, address: tuple[Any, ...], backlog: int) -> None:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        self._add(listener)

    def bind_file(self, path: str, backlog: int) -> None:
        """Listen on a Unix socket, whose mode is the umask's matter; OSError if a server lives there."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _locked(os.path.dirname(path) or "."):
                _remove_stale(path)
                _bind_path(listener, path)
                listener.listen(backlog)
                self.adopt_file(path)
        except BaseException:
            listener.close()
            raise
        self._add(listener)

    def replace_file(self, path: str) -> None:
        """Listen on a Unix socket at `path` in the place of the one that may be there: one of them always is."""
        _check_is_socket(path)
        own_path = f"{path}.{os.getpid()}"
        self.bind_file(own_path, HANDOVER_BACKLOG)
        self._files.clear()
        os.rename(own_path, path)
        self.adopt_file(path)

    # The files.

    @property
    def files(self) -> list[str]:
        """The socket files that will be removed at the end."""
        return list(self._files)

    def adopt_file(self, path: str) -> None:
        """Remove this file at the end, as long as it is the one that is there now."""
        with contextlib.suppress(FileNotFoundError):
            self._files[path] = _identify(path)

    def leave_files(self) -> None:
        """Somebody else will remove the files."""
        self._files.clear()

    def close(self) -> None:
        """Close the sockets and remove the files."""
        for path, identity in self._files.items():
            with contextlib.suppress(OSError):
                if _identify(path) == identity:
                    os.unlink(path)
        self._files.clear()
        for listener in self.sockets:
            _in_use.discard(listener)
            listener.close()
        self.sockets.clear()


async def open_listeners(
    host: str | None,
    port: int,
    uds: str | None,
    sock: socket.socket | Iterable[socket.socket] | Listeners | None,
    backlog: int,
) -> Listeners:
    """Return the Listeners of `sock`, of the file `uds`, or of `host` and `port`: the first of these that is given."""
    if isinstance(sock, Listeners):
        return sock
    if isinstance(sock, socket.socket):
        return Listeners([sock])
    if sock is not None:
        return Listeners(sock)
    listeners = Listeners()
    if uds is not None:
        listeners.bind_file(uds, backlog)
    else:
        await listeners.bind_addresses(host, port, backlog)
    return listeners


def inherit(fd: int) -> socket.socket:
    """Return the listening socket that this process was given as descriptor `fd`; ValueError if it is none."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise ValueError(f"descriptor {fd}: {error.strerror}") from None
    except OverflowError:
        raise ValueError(f"descriptor {fd}: {os.strerror(errno.EBADF)}") from None
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()   # it is not ours to close
        raise ValueError(f"descriptor {fd} is no listening stream socket")
    return listener


def inherit_from_systemd() -> list[socket.socket]:
    """Return the sockets of systemd's socket activation, as sd_listen_fds(3) does; ValueError if there are none."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal() or count == "0":
        raise ValueError("systemd has passed no sockets to this process (LISTEN_PID, LISTEN_FDS)")
    return [inherit(fd) for fd in range(FIRST_SYSTEMD_FD, FIRST_SYSTEMD_FD + int(count))]


def normalize_host(host: str | None) -> str | None:
    """Return `host` as a resolver takes it: an IPv6 address may have the brackets of a URL."""
    return host[1:-1] if host is not None and host.startswith("[") and host.endswith("]") else host


def normalize_path(option: str, path: str | os.PathLike[str]) -> str:
    """Return the path of a Unix socket's file; ValueError, which names `option`, if `path` is none."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"{option} must be a str or a path, got {path!r}")
    if not text:    # bind(2) would choose an abstract name
        raise ValueError(f"{option} is empty: it is the path of a file")
    if text.startswith("unix:"):
        raise ValueError(f"{option} is the path alone: {text.removeprefix('unix:')!r}, and not {text!r}")
    if text.startswith("@") or "\0" in text:
        raise ValueError(f"{option} is the path of a file, not an abstract name, got {text!r} (./@... is a file)")
    return text


def _bind_path(listener: socket.socket, path: str) -> None:
    try:
        listener.bind(path)
    except OSError as error:
        if error.errno is None:     # Python's own: sun_path has 108 bytes on Linux, fewer elsewhere
            raise OSError(errno.ENAMETOOLONG, "too long for a Unix socket", path) from None
        raise


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Let nobody else who asks for this look for a stale file in `folder` meanwhile, and replace it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on; OSError if somebody does, or if it is another file."""
    if not _check_is_socket(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:     # somebody has more to accept than fits
            pass
    raise OSError(errno.EADDRINUSE, "a server is listening there", path)


def _check_is_socket(path: str) -> bool:
    """Return whether there is a socket file; OSError if there is another file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket", path)
    return True


def _identify(path: str) -> _Identity:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
