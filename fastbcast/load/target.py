"""The servers that are measured: how each is built, started on one processor, and stopped.

Every server prints ``listening on ws://HOST:PORT/`` when it is ready, relays each message to all
connections on its path, the sender included, and ends on SIGINT. It may then print one line of JSON, its
own report. Nothing here measures.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .machine import find_family

__all__ = ["FLOOR_MODES", "Server", "ServerUnavailable", "floor_command"]

FLOOR_SOURCE = Path(__file__).parent / "floor" / "floor.c"
FLOOR_MODES = ("each", "coalesce")
"""One send for each client and message; one for all that has gathered while a round of reading was handled."""
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when the one that started it ends."""
START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 20.0


class ServerUnavailable(Exception):
    """The server cannot be run here. `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


def floor_command(mode: str, folder: Path) -> list[str]:
    """Compile the floor, a relay in plain C, into `folder`, unless what is there is newer than its sources.

    Raises ServerUnavailable if there is no C compiler (`cc`, or the one in CC), or it fails.
    """
    program = folder / "floor"
    newest = max(path.stat().st_mtime for path in FLOOR_SOURCE.parent.iterdir())
    if not program.exists() or program.stat().st_mtime < newest:
        folder.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-o", str(program), str(FLOOR_SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise ServerUnavailable("floor", f"there is no C compiler ({compiler[0]})") from None
        except subprocess.CalledProcessError as error:
            raise ServerUnavailable("floor", error.stderr.strip() or f"{compiler[0]} failed") from None
    return [str(program), "--mode", mode, "--port", "0"]


def pinned_to(core: int | None) -> Callable[[], None]:
    """A `preexec_fn`: one core, SIGINT as a program expects it, and no life beyond that of the process that calls this.

    A shell starts background jobs with SIGINT ignored, and a Python started so never stops on it.
    """
    libc, starter_pid = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != starter_pid:
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


class Server:
    """A running server, as a context manager: ready on entry, gone on exit.

    Its output goes to a temporary file, not to a pipe: nobody has to read it, so it cannot block.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        self.name = name
        self.url = ""
        self.exit_code: int | None = None
        self._command = command
        self._core = core
        self._environment = environment
        self._start_timeout_seconds = start_timeout_seconds
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the server)
        self._all_output = ""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=None if self._environment is None else dict(self._environment),
            preexec_fn=pinned_to(self._core),
        )
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Its process and all descendants."""
        return find_family([self._process.pid])

    @property
    def output(self) -> str:
        if self._output.closed:
            return self._all_output
        return os.pread(self._output.fileno(), 1 << 20, 0).decode(errors="replace")

    @property
    def report(self) -> dict[str, Any]:
        """What the server said of itself when it stopped; empty if nothing."""
        lines = self.output.strip().splitlines()
        if not lines or not lines[-1].startswith("{"):
            return {}
        report: dict[str, Any] = json.loads(lines[-1])
        return report

    def _wait_until_ready(self) -> str:
        deadline = time.monotonic() + self._start_timeout_seconds
        is_over = False
        while not is_over:
            is_over = time.monotonic() >= deadline  # before the look: this process, too, may be frozen for that long
            if ready := re.search(r"listening on (ws://\S+)\s", self.output):
                return ready[1]
            if self._process.poll() is not None:
                break
            time.sleep(0.02)  # the line comes from another process: there is nothing to wait on
        raise ServerUnavailable(self.name, f"did not start:\n{self.output[-2000:]}")

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self.exit_code = self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()
        self._all_output = self.output
        self._output.close()
