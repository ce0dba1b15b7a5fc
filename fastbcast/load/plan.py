"""What a load run is to do: a Plan, and how its parts are written on the command line."""

from __future__ import annotations

import ipaddress
import math
import random
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from ..header_fields import is_token
from ..urls import hide_secrets, prepare_url
from ._audit import MIN_PAYLOAD_BYTES
from ._board import MAX_SLOTS, MAX_STREAMS
from .payload import PAYLOADS

__all__ = ["CHURN_LIFE_SECONDS", "Client", "Plan", "Slow", "parse_bytes", "parse_header", "parse_slow", "parse_sources"]

MAX_SIZE_BYTES = 16 * 1024 * 1024
MAX_CLIENTS = 1_000_000
MAX_RATE = 1_000_000_000
CHURN_LIFE_SECONDS = 2.0
"""How long a client of the churn stays, on average."""
BURST_SECONDS = 2.0
"""`bursts`: read nothing for so long, then all there is."""
MIN_READ_SECONDS = 0.05
"""A client that reads at a rate takes a piece no more often than this."""
SPREAD_ABOVE_CLIENTS = 20_000
"""So many connections to loopback leave from one address; one address has some 28,000 ports."""


@dataclass(frozen=True)
class Slow:
    """Some of the clients that read late: `read_bytes` every `every_seconds`, 0 bytes: all there is; inf: never."""

    share: float
    """Of all clients, if less than 1; else how many."""
    every_seconds: float
    read_bytes: int
    text: str
    """As it was written."""

    def count(self, clients: int) -> int:
        return math.ceil(self.share * clients) if self.share < 1 else int(self.share)


@dataclass(frozen=True)
class Client:
    """One subscriber of a plan. `slow` is None unless it is one."""

    channel: int
    is_guest: bool = False
    slow: Slow | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A load run. Raises ValueError for what cannot be run."""

    url: str
    """ws://HOST:PORT/PATH; `{channel}` in it is the channel's number."""
    clients: int = 100
    channels: int = 1
    publishers: int = 0
    """0: one for each channel."""
    processes: int = 1
    messages: int | None = None
    """Of the measured window, in all."""
    duration_seconds: float = 10.0
    """How long to publish, if `messages` is None."""
    rate: float = 0.0
    """Messages a second, in all: an open loop. 0: a closed one."""
    in_flight: int = 1
    judge: str = "all"
    """A message of a closed loop is under way until `all` subscribers have it, or the `first`."""
    size_bytes: int = 128
    payload: str = ""
    """What follows the stamp of a message: payload.PAYLOADS. Empty: letters, or ticks with `has_deflate`."""
    is_binary: bool = False
    warmup_messages: int = 20
    connect_rate: float = 0.0
    """Handshakes a second, in all; 0: as fast as they are answered, `connecting` at once."""
    connecting: int = 64
    connect_timeout_seconds: float = 30.0
    slow: tuple[Slow, ...] = ()
    churn_per_second: float = 0.0
    """Clients that leave a second, while others come back."""
    has_deflate: bool = False
    """Offer permessage-deflate."""
    source_addresses: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Of each handshake: those of parse_header, which stand in for ours of the same name."""
    token: str | None = field(default=None, repr=False)
    expect_prefix: bytes | None = None
    """Nothing is published: count what the server sends by itself, and check that each message begins so."""
    is_idle: bool = False
    """With `expect_prefix`: no message is expected, only that connections stay open."""
    stall_seconds: float = 5.0
    """What is under way is given up when nothing has moved for so long."""
    settle_seconds: float = 0.0
    """Wait so long before slow clients are counted, with which a server may take its time."""
    server_pids: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()
    """Processors of the load processes, in turn; empty: as the scheduler likes."""
    target: SplitResult = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "publishers", self.publishers or (0 if self.is_listening else self.channels))
        object.__setattr__(self, "payload", self.payload or ("ticks" if self.has_deflate else "letters"))
        object.__setattr__(self, "target", parse_url(self.url))
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is a number, not {value}")
        checks = {
            f"--clients must be 1 to {MAX_CLIENTS:,}": 1 <= self.clients <= MAX_CLIENTS,
            f"--channels must be 1 to {MAX_STREAMS:,}": 1 <= self.channels <= MAX_STREAMS,
            f"--publishers must be at most {MAX_STREAMS:,}": self.publishers <= MAX_STREAMS,
            "each channel needs a publisher: --publishers must be at least --channels":
                self.is_listening or self.publishers >= self.channels,
            "--processes must be 1 to the number of clients": 1 <= self.processes <= self.clients,
            f"--size must be {MIN_PAYLOAD_BYTES} to {MAX_SIZE_BYTES:,}: a message says which one it is":
                MIN_PAYLOAD_BYTES <= self.size_bytes <= MAX_SIZE_BYTES,
            f"--in-flight must be 1 to {MAX_SLOTS:,}": 1 <= self.in_flight <= MAX_SLOTS,
            "--header: there is one Host (RFC 9112 section 3.2)":
                sum(name.lower() == "host" for name, _ in self.headers) <= 1,
            "--judge is first or all": self.judge in ("first", "all"),
            f"--payload is {' or '.join(PAYLOADS)}": self.payload in PAYLOADS,
            "--messages must be at least 1": self.messages is None or self.messages >= 1,
            "--duration must be above 0": self.duration_seconds > 0,
            f"--rate must be at most {MAX_RATE:,}": self.rate <= MAX_RATE,
            "--rate, --connect-rate and --churn are not negative":
                min(self.rate, self.connect_rate, self.churn_per_second) >= 0,
            "--churn needs two clients that are not slow": not self.churn_per_second or self.guests > 0,
            "each channel needs a client that reads all it can, for the whole run": len(self.steady()) >= self.channels,
        }
        for problem, is_right in checks.items():
            if not is_right:
                raise ValueError(problem)

    @property
    def shown_url(self) -> str:
        """Without what may be a secret."""
        return hide_secrets(self.url)

    @property
    def is_listening(self) -> bool:
        return self.expect_prefix is not None

    @property
    def slow_clients(self) -> int:
        return sum(slow.count(self.clients) for slow in self.slow)

    @property
    def guests(self) -> int:
        """Clients of the churn: as many as leave in CHURN_LIFE_SECONDS, at most half of those that are not slow."""
        wanted = math.ceil(self.churn_per_second * CHURN_LIFE_SECONDS)
        return min(wanted, max(0, self.clients - self.slow_clients) // 2)

    def steady(self) -> range:
        return range(max(0, self.clients - self.slow_clients - self.guests))

    def all_clients(self) -> list[Client]:
        """The same for the same plan. Kinds are mixed: the slow ones stand wherever a server has its clients."""
        clients = [Client(number % self.channels) for number in self.steady()]
        for slow in self.slow:
            clients += [Client(number % self.channels, slow=slow) for number in range(slow.count(self.clients))]
        clients += [Client(number % self.channels, is_guest=True) for number in range(self.guests)]
        random.Random(0).shuffle(clients)
        return clients

    def path_of(self, channel: int) -> str:
        """The request target of a channel: `{channel}` is its number, or with several it is added at the end."""
        path = self.target.path or "/"
        if "{channel}" in path:
            path = path.replace("{channel}", str(channel))
        elif self.channels > 1:
            path += f"{'' if path.endswith('/') else '-'}{channel}"
        return f"{path}?{self.target.query}" if self.target.query else path


def parse_url(url: str) -> SplitResult:
    """The parts of a URL, as they are sent."""
    shown = hide_secrets(url)
    try:
        parts = urlsplit(prepare_url(url)[0])
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from None
    if parts.scheme == "wss":
        raise ValueError(f"{shown}: load speaks no TLS; point it at the plain port behind the proxy")
    if parts.scheme != "ws" or not parts.hostname:
        raise ValueError(f"{shown}: not a WebSocket URL (ws://HOST:PORT/PATH)")
    if port == 0:
        raise ValueError(f"{shown}: not a WebSocket URL")
    return parts


_OF_THE_HANDSHAKE = re.compile(
    "upgrade|connection|sec-websocket-(?!protocol$).*|content-length|transfer-encoding", re.IGNORECASE
)


def parse_header(text: str) -> tuple[str, str]:
    """`Authorization: Bearer abc`. ValueError for one that makes the request a handshake, which must be as it is."""
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not is_token(name) or any(letter in text for letter in "\r\n\0"):
        raise ValueError(f"{text!r} is not like 'Authorization: Bearer abc'")
    if _OF_THE_HANDSHAKE.fullmatch(name):
        raise ValueError(f"{name} cannot be given: it makes the request a handshake (RFC 6455 section 4.1)")
    return name, value.strip()


_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}


def parse_bytes(text: str) -> int:
    """`128`, `4KiB`, `1KB`, `2.5MB`."""
    found = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip().lower())
    try:
        if found is None or found[2] not in _UNITS:
            raise ValueError
        return int(float(found[1]) * _UNITS[found[2]])
    except ValueError:
        raise ValueError(f"{text!r} is not a number of bytes (128, 4KiB, 1MB)") from None


def parse_slow(text: str) -> Slow:
    """`10%:stall`, `5:1KB/s`, `1%:bursts`: how many, and how they read."""
    amount, _, pace = text.partition(":")
    try:
        share = float(amount[:-1]) / 100 if amount.endswith("%") else float(int(amount))
        if not share > 0 or (amount.endswith("%") and share >= 1):
            raise ValueError
        if pace == "stall":
            return Slow(share, math.inf, 0, text)
        if pace == "bursts":
            return Slow(share, BURST_SECONDS, 0, text)
        if not pace.endswith("/s"):
            raise ValueError
        per_second = parse_bytes(pace[:-2])
        every_seconds = max(MIN_READ_SECONDS, 1 / per_second)
        return Slow(share, every_seconds, max(1, round(per_second * every_seconds)), text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not like 10%:stall, 10%:1KB/s or 5:bursts") from None


def parse_sources(text: str) -> tuple[str, ...]:
    """`127.0.0.2,127.0.0.3`, or `127.0.0.1-8` for eight of them in a row."""
    addresses = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        try:
            start = ipaddress.ip_address(first)
            count = int(last) - int(str(start).rpartition(".")[2]) + 1 if last else 1
            if count < 1:
                raise ValueError
            addresses += [str(start + number) for number in range(count)]
        except ValueError:
            raise ValueError(f"{part!r} is not like 127.0.0.2 or 127.0.0.1-8") from None
    return tuple(addresses)
