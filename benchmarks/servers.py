"""The servers of the benchmark: how each is built, found, started, pinned and stopped.

Every server prints ``listening on ws://HOST:PORT/`` when it is ready, relays each message to all
connections on its path, the sender included, and ends on SIGINT. It may then print one line of JSON, its
own report. Nothing here measures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
LIMIT = HERE / "limit"
BUILD = LIMIT / "build"
PEERS = HERE / "peers"

# A server that is not there is left out with a note, except this one: it is what we measure.
SUBJECT = "fastbcast"

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 20.0


class ServerUnavailable(Exception):
    """The server cannot be run here. `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


def build_program(name: str) -> Path:
    """Compile ``limit/NAME.c`` unless the program is newer than all sources."""
    program = BUILD / name
    sources = [LIMIT / f"{name}.c", *LIMIT.glob("*.h")]
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        BUILD.mkdir(exist_ok=True)
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-o", str(program), str(sources[0])],
            check=True,
        )
    return program


def find_bun() -> Path:
    """The bun of ``peers/node_modules``, or the one in ``BENCHMARK_BUN``.

    The npm package `bun` holds no program: its platform packages (`@oven/bun-linux-x64` and so on)
    do. More than one may be installed (musl, older processors), so the first that runs is taken.
    """
    named = os.environ.get("BENCHMARK_BUN")
    candidates = [Path(named)] if named else sorted(PEERS.glob("node_modules/@oven/bun-*/bin/bun"))
    for candidate in candidates:
        try:
            subprocess.run([str(candidate), "--version"], check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    raise ServerUnavailable("bun", "not installed: run `npm install` in benchmarks/peers")


def find_node() -> str:
    """The `node` of the path, or the one in ``BENCHMARK_NODE``."""
    node = os.environ.get("BENCHMARK_NODE") or shutil.which("node")
    if node is None:
        raise ServerUnavailable("ws", "there is no node")
    if not (PEERS / "node_modules" / "ws").is_dir():
        raise ServerUnavailable("ws", "not installed: run `npm install` in benchmarks/peers")
    return node


def require_module(server: str, module: str, python: str = sys.executable) -> None:
    """Import it as the server will: `-c`, like `-m`, also looks in the current directory."""
    try:
        done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True)
    except OSError as error:
        raise ServerUnavailable(server, f"{python}: {error.strerror}") from None
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServerUnavailable(server, f"cannot import {module}: {last_line}")


def require_options(server: str, command: list[str], options: Sequence[str]) -> None:
    """An older fastbcast does not know every option that a scenario asks for."""
    names = [option for option in options if option.startswith("--")]
    if names:
        offered = subprocess.run([*command, "--help"], capture_output=True, text=True).stdout.split()
        if missing := [name for name in names if name not in offered]:
            raise ServerUnavailable(server, f"this fastbcast has no {', '.join(missing)}")


def fastbcast_command(name: str = SUBJECT, *options: str) -> list[str]:
    require_module(name, "fastbcast")
    command = [sys.executable, "-m", "fastbcast", "serve", "--relay", "--port", "0"]
    require_options(name, command, options)
    return [*command, *options]


def timer_command() -> list[str]:
    require_module(f"{SUBJECT}-timer", "fastbcast")
    return [sys.executable, str(HERE / "timer_server.py"), "--port", "0"]


def read_hard_cap_bytes() -> int | None:
    """What a channel of the installed fastbcast may hold with its default limits; None if it does not say."""
    question = (
        "from fastbcast.options import ChannelOptions; options = ChannelOptions();"
        " print(options.max_lag_bytes + options.max_burst_bytes + options.max_unswept_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else None


def floor_command(mode: str) -> list[str]:
    return [str(build_program("floor")), "--mode", mode, "--port", "0"]


def picows_command(*options: str) -> list[str]:
    require_module("picows", "picows")
    require_module("picows", "uvloop")
    return [sys.executable, str(PEERS / "picows_loop.py"), "--port", "0", *options]


def bun_command() -> list[str]:
    return [str(find_bun()), str(PEERS / "bun_publish.js"), "--port", "0"]


def ws_command() -> list[str]:
    return [find_node(), str(PEERS / "ws_broadcast.js"), "--port", "0"]


def python_peer_command(name: str, script: str, *modules: str) -> list[str]:
    """``BENCHMARK_PEERS_PYTHON`` names an interpreter that has ``peers/requirements.txt``; else it is this one."""
    python = os.environ.get("BENCHMARK_PEERS_PYTHON", sys.executable)
    for module in modules:
        require_module(name, module, python)
    return [python, str(PEERS / script), "--port", "0"]


COMMANDS: Mapping[str, Callable[[], list[str]]] = {
    SUBJECT: fastbcast_command,
    f"{SUBJECT}-skip": lambda: fastbcast_command(f"{SUBJECT}-skip", "--policy", "skip"),
    f"{SUBJECT}-latest": lambda: fastbcast_command(f"{SUBJECT}-latest", "--policy", "latest"),
    f"{SUBJECT}-timer": timer_command,
    "floor": lambda: floor_command("each"),
    "floor-coalesce": lambda: floor_command("coalesce"),
    "bun": bun_command,
    "picows": lambda: picows_command("--uvloop-transports"),
    "picows-aiofastnet": lambda: picows_command("--aiofastnet"),
    "ws": ws_command,
    "websockets": lambda: python_peer_command("websockets", "websockets_broadcast.py", "websockets", "uvloop"),
    "aiohttp": lambda: python_peer_command("aiohttp", "aiohttp_loop.py", "aiohttp", "uvloop"),
    "starlette": lambda: python_peer_command(
        "starlette", "starlette_loop.py", "starlette", "uvicorn", "websockets", "uvloop", "httptools"
    ),
}


def pinned_to(core: int | None) -> Callable[[], None]:
    """A `preexec_fn`: one core, and SIGINT as a program expects it.

    A shell starts background jobs with SIGINT ignored, and a Python started so never stops on it.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


def family_of(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    family = [pid]
    for member in family:  # grows while it is read
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            family.extend(int(child) for child in children.read_text().split())
    return family


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
        self._output = tempfile.TemporaryFile()
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
    def pids(self) -> list[int]:
        return family_of(self._process.pid)

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
        while time.monotonic() < deadline:
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
