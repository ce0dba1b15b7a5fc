"""The servers of the benchmark, and where each is found. How they are started: fastbcast.load.target.

Every server prints ``listening on ws://HOST:PORT/`` when it is ready, relays each message to all
connections on its path, the sender included, and ends on SIGINT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastbcast.load.target import ServerUnavailable, floor_command

HERE = Path(__file__).resolve().parent
FLOOR = HERE.parent / "build" / "floor"
PEERS = HERE / "peers"

# A server that is not there is left out with a note, except this one: it is what we measure.
SUBJECT = "fastbcast"


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
    "floor": lambda: floor_command("each", FLOOR),
    "floor-coalesce": lambda: floor_command("coalesce", FLOOR),
    "bun": bun_command,
    "picows": lambda: picows_command("--uvloop-transports"),
    "picows-aiofastnet": lambda: picows_command("--aiofastnet"),
    "ws": ws_command,
    "websockets": lambda: python_peer_command("websockets", "websockets_broadcast.py", "websockets", "uvloop"),
    "aiohttp": lambda: python_peer_command("aiohttp", "aiohttp_loop.py", "aiohttp", "uvloop"),
    "starlette": lambda: python_peer_command(
        "starlette", "starlette_loop.py", "starlette", "uvicorn", "websockets", "uvloop", "httptools"
    ),
    "tornado": lambda: python_peer_command("tornado", "tornado_chat.py", "tornado", "uvloop"),
    "socketify": lambda: python_peer_command("socketify", "socketify_publish.py", "socketify"),
}
