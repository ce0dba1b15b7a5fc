"""What a load run reads of the machine: processor time and memory of processes, and the kernel's of its sockets."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = [
    "Usage", "describe_machine", "find_family", "read_peak_bytes", "read_socket_bytes", "read_usage",
    "read_wait_seconds", "reset_peak",
]


@dataclass(frozen=True)
class Usage:
    """Of some processes together, since each began."""

    cpu_seconds: float
    rss_bytes: int


def find_family(pids: Iterable[int]) -> list[int]:
    """The processes and all their descendants that are alive."""
    family: set[int] = set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family |= {pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return sorted(family)


def read_usage(pids: Iterable[int]) -> Usage | None:
    """What they have used; None if none of them is alive, or may be looked at."""
    cpu_seconds, rss_bytes, is_known = 0.0, 0, False
    for pid in find_family(pids):
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            rss_bytes += process.memory_info().rss
        except psutil.Error:
            continue
        cpu_seconds += times.user + times.system
        is_known = True
    return Usage(cpu_seconds, rss_bytes) if is_known else None


def reset_peak(pids: Iterable[int]) -> bool:
    """Let `read_peak_bytes` count from now on (proc(5), clear_refs). False: that is not allowed for all of them."""
    try:
        for pid in find_family(pids):
            Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def read_peak_bytes(pids: Iterable[int]) -> int:
    """The most memory that each of them had, together."""
    total = 0
    for pid in find_family(pids):
        with contextlib.suppress(OSError):
            found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
    return total


def read_wait_seconds(pid: int) -> float | None:
    """How long a process's first thread was ready to run while something else had its processor; None if not known."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def read_socket_bytes() -> int | None:
    """What the kernel holds for TCP, of all processes and both ends; None if it does not say."""
    try:
        lines = Path("/proc/net/sockstat").read_text().splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith("TCP:")), [])
    return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGESIZE") if "mem" in words else None


def describe_machine() -> dict[str, object]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
