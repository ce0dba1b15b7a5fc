"""The standard streams of the command: they wait where they are non-blocking, and say which of them failed, and why.

Invariants

1. Descriptors 0 to 2 are open before anything else opens one. A connection that got the number 2 would be written to by
   whatever writes an error there, and libuv aborts when it closes a descriptor below 3.
2. Nothing is lost on a descriptor with O_NONBLOCK, which a pipe or a terminal has when one of those that share it wants
   it: reading and writing wait. Python's own streams take it for the end of the input, and drop what is not taken at
   once. The flag itself stays as it is, since it belongs to all that share the descriptor.
3. Reading standard input and writing standard output raise StreamFailed, which is no OSError, so that nobody takes it
   for the network's. It is raised once; what is written afterwards is dropped, so that the interpreter's end, which
   flushes, has nothing to add.
4. Standard error drops what it cannot write: there is no other place to say so, and a log line is no reason to end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["StreamFailed", "ending_with_its_status", "open_streams", "require_output"]

STDIN, STDOUT, STDERR = range(3)
_NAMES = ("standard input", "standard output", "standard error")
_UNUSABLE = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
"""How /dev/null is opened for a stream that was closed: using it is EBADF as before, but standard error is silent."""


class StreamFailed(Exception):
    """A standard stream cannot be used: which `stream`, and why; `errno` is 0 where the system did not say it."""

    def __init__(self, stream: str, reason: str, errno: int = 0) -> None:
        super().__init__(f"{stream}: {reason}")
        self.stream = stream
        self.reason = reason
        self.errno = errno

    def tell(self, status: int = 1) -> int:
        """Say it on standard error, and return `status`; for a pipe without a reader, only return SIGPIPE's."""
        if self.errno == errno.EPIPE:   # its reader has what it wanted: `| head`
            return 128 + signal.SIGPIPE
        print(f"fastbcast: {self}", file=sys.stderr, flush=True)
        return status


class _Stream(io.RawIOBase):
    """One descriptor, which is waited for, and never closed. `write` takes all it is given."""

    def __init__(self, fd: int) -> None:
        self.name = f"<{_NAMES[fd]}>"
        self.mode = "rb" if fd == STDIN else "wb"
        self._fd = fd
        self._has_failed = False

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def readable(self) -> bool:
        return self._fd == STDIN

    def writable(self) -> bool:
        return self._fd != STDIN

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while True:
            try:
                return os.readv(self._fd, [buffer])
            except BlockingIOError:
                self._wait(select.POLLIN)
            except OSError as error:
                raise _failed(self._fd, error) from None

    def write(self, data: ReadableBuffer, /) -> int:
        left = memoryview(data).cast("B")
        size = left.nbytes
        while left and not self._has_failed:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                if self._fd == STDERR:
                    break
                self._has_failed = True
                raise _failed(self._fd, error) from None
        return size

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._fd, event)
        poll.poll()


def _failed(fd: int, error: OSError) -> StreamFailed:
    return StreamFailed(_NAMES[fd], error.strerror or str(error), error.errno or 0)


def open_streams() -> None:
    """Open what is missing of the descriptors 0 to 2, and replace sys.stdin, sys.stdout and sys.stderr."""
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, _UNUSABLE[fd])     # the lowest number that is free: this one
            os.set_inheritable(opened, True)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(_Stream(STDIN)), encoding="utf-8", newline="\n")
    sys.stdout = _text_writer(STDOUT, sys.stdout, "strict")
    sys.stderr = _text_writer(STDERR, sys.stderr, "backslashreplace")


def _text_writer(fd: int, python_s_own: Any, errors: str) -> io.TextIOWrapper:
    """Return a text stream that waits, set up as Python's own was (PYTHONIOENCODING, PYTHONUNBUFFERED, a terminal)."""
    raw: Any = _Stream(fd)
    if python_s_own is None:    # it was closed
        return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, write_through=True)
    is_unbuffered = python_s_own.write_through
    return io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding=python_s_own.encoding, errors=python_s_own.errors, newline="\n",
        line_buffering=python_s_own.line_buffering, write_through=is_unbuffered,
    )


def require_output() -> None:
    """Raise StreamFailed if standard output cannot be written to: before the work whose result goes there."""
    if fcntl.fcntl(STDOUT, fcntl.F_GETFL) & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) == os.O_RDONLY:
        raise StreamFailed(_NAMES[STDOUT], os.strerror(errno.EBADF), errno.EBADF)


@contextlib.contextmanager
def ending_with_its_status() -> Iterator[None]:
    """Around a command: a stream that fails in it, or at its end, is told, and is the exit status."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except StreamFailed as failed:
        sys.exit(failed.tell())
