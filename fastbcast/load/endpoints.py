"""Slow clients, as the kernel has them at the end of a run.

What a client that does not read can tell is little: a CLOSE, and a FIN too, waits behind all that it has not read. So
the server's ends are looked up, which is possible if it runs on this machine:

    state of the server's end           counted as
    ESTABLISHED, and a process has it   open        still a client of the server
    any other                           lingering   closed by the server; the kernel keeps what was not taken
    not there                           gone
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["SlowEnds", "look_at_slow_ends"]

_ESTABLISHED = 1

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
_MAPPED = "".join(f"{word:08X}" for word in memoryview(bytes(10) + b"\xff\xff").cast("I"))
"""How tcp6 begins the IPv4 address of a client, if a server listens on [::] for both (RFC 4291 section 2.5.5.2)."""


@dataclass
class SlowEnds:
    is_known: bool = True
    """False: the server is on another machine: open, lingering, gone, behind and what is unread are not known here."""
    open: int = 0
    lingering: int = 0
    gone: int = 0
    behind: int = 0
    """Those for which the kernel holds something at the server's end: their own end is full."""
    unread_bytes: int = 0
    """What the kernel holds of the streams to them, at both ends."""
    closes_seen: int = 0
    """Those that know without reading: a FIN or a reset has come."""

    def add(self, other: SlowEnds) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value if name != "is_known" else self.is_known and value)


def look_at_slow_ends(descriptors: Iterable[int]) -> SlowEnds:
    """Count the connections of these sockets, which stay as they are."""
    ends = SlowEnds()
    own_ends: set[tuple[str, str]] = set()
    for descriptor in descriptors:
        with socket.socket(fileno=socket.dup(descriptor)) as sock:
            try:
                own_ends.add((_as_kernel_writes(sock.getsockname()), _as_kernel_writes(sock.getpeername())))
            except OSError:  # reset
                ends.gone += 1
                ends.closes_seen += 1
                continue
            poll = select.poll()
            poll.register(sock, select.POLLRDHUP)
            ends.closes_seen += bool(poll.poll(0))
            if not _is_here(sock.getpeername()):
                ends.is_known = False
    if not own_ends or not ends.is_known:
        return ends
    unread_bytes: dict[tuple[str, str], int] = {}
    server_ends: dict[tuple[str, str], tuple[bool, int]] = {}
    for local, remote, state, unsent, unread, inode in _read_connections():
        # The kernel may list a connection twice if others come or go while it is read.
        if (local, remote) in own_ends:
            unread_bytes[local, remote] = unread
        elif (remote, local) in own_ends:
            server_ends[remote, local] = (state == _ESTABLISHED and bool(inode), unsent)
    is_open = [is_open for is_open, _ in server_ends.values()]
    ends.open += is_open.count(True)
    ends.lingering += is_open.count(False)
    ends.gone += len(own_ends) - len(server_ends)
    ends.behind += sum(bool(unsent) for _, unsent in server_ends.values())
    ends.unread_bytes += sum(unread_bytes.values()) + sum(unsent for _, unsent in server_ends.values())
    return ends


def _is_here(address: Address) -> bool:
    """Whether it is an address of this machine."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address[0], 0))
        except OSError:
            return False
    return True


def _as_kernel_writes(address: Address) -> str:
    """An address as it stands in /proc/net/tcp and tcp6: 32-bit words in the machine's own order."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    packed = socket.inet_pton(family, address[0].partition("%")[0])
    words = memoryview(packed).cast("I")
    return ("".join(f"{word:08X}" for word in words) + f":{address[1]:04X}").removeprefix(_MAPPED)


def _read_connections() -> Iterable[tuple[str, str, int, int, int, int]]:
    """(local, remote, state, unsent bytes, unread bytes, inode) of each TCP connection."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            unsent, _, unread = words[4].partition(":")
            local, remote = (word.removeprefix(_MAPPED) for word in words[1:3])
            yield local, remote, int(words[3], 16), int(unsent, 16), int(unread, 16), int(words[9])
