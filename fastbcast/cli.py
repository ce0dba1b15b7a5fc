"""The `fastbcast` command: serve, demo, publish, listen, load, bench."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from dataclasses import fields
from typing import Any, NoReturn

import click
import uvloop

from . import __version__
from .door import DEFAULT_CHANNEL
from .handover import HandoverFailed
from .hub import Hub
from .listeners import inherit, inherit_from_systemd
from .load.command import bench_command, load_command
from .options import POLICIES, ChannelOptions, HubOptions, ServerOptions
from .process import Process
from .server import Server, serve
from .tls import make_context
from .tool import listen_to, publish_to

_logger = logging.getLogger("fastbcast")

_Command = Callable[..., Any]

MAX_BYTES = 2**40
"""What any option of bytes may be: a terabyte."""

_LIMITS = {
    # Channels.
    "policy": "What becomes of a client that is too far behind: closed with 1013 (evict), moved to the oldest message "
              "within the limit (skip) or to the newest (latest), or sent only the newest of each key (conflate).",
    "max_lag_bytes": "The limit of how far behind a client may be, a burst not counted.",
    "soft_lag_bytes": "A limit that may be passed for --soft-lag-seconds.",
    "soft_lag_seconds": "How long a client may stay above --soft-lag-bytes.",
    "coalesce_seconds": "Wait so long after a message before sending, to send less often.",
    "max_messages_per_second": "Send each client at most so many messages, the newest of each key; 0: no limit.",
    "max_keys": "Keys whose newest message a conflating channel keeps.",
    "max_snapshot_bytes": "What those messages may take.",
    # The hub.
    "max_message_bytes": "The largest message a client may send (1009 above).",
    "max_direct_bytes": "What may wait for one client beside its channels' messages.",
    "max_log_bytes": "What all channels may hold for clients that are behind.",
    "max_pinned_bytes": "What the rests of large messages may hold beside that.",
    "max_channels": "Channels there may be at once (503 above).",
    "stall_seconds": "A client that takes nothing at all for so long is closed, under every policy.",
    # The server.
    "notsent_lowat_bytes": "What the kernel may hold unsent of each connection; 0: as it likes.",
    "send_buffer_bytes": "SO_SNDBUF of each connection; 0 leaves it to the kernel.",
}
"""The fields of ChannelOptions, HubOptions and ServerOptions that are options of `serve` and `demo`."""
_MAY_BE_ZERO = {"notsent_lowat_bytes", "send_buffer_bytes"}


def _limit_options() -> list[Callable[[_Command], _Command]]:
    fields_by_name = {
        field.name: field for kind in (ChannelOptions, HubOptions, ServerOptions) for field in fields(kind)
    }

    def type_of(name: str) -> Any:
        if name == "policy":
            return click.Choice(POLICIES)
        if fields_by_name[name].type == "float":
            return click.FloatRange(min=0)
        return click.IntRange(0 if name in _MAY_BE_ZERO else 1, MAX_BYTES)

    return [
        click.option(
            f"--{name.replace('_', '-')}",
            type=type_of(name),
            default=fields_by_name[name].default,
            show_default=True,
            help=text,
        )
        for name, text in _LIMITS.items()
    ]


def _server_options(command: _Command) -> _Command:
    """Add the options that `serve` and `demo` share; the first of the list is the last in the help."""
    options: list[Callable[[_Command], _Command]] = [
        click.option("--log-level", default="warning", show_default=True,
                     type=click.Choice(["debug", "info", "warning", "error"])),
        click.option("--loop", "loop_name", type=click.Choice(["uvloop", "asyncio"]), default="uvloop",
                     show_default=True, help="The event loop."),
        click.option("--drain-seconds", type=click.FloatRange(min=0), default=5.0, show_default=True,
                     help="Over how long SIGTERM, or a handover, spreads the clients' ends (1012)."),
        *reversed(_limit_options()),
        click.option("--handover", "handover_path", type=click.Path(), metavar="PATH",
                     help="Take over from the process started with the same PATH, and let the next one do so."),
        click.option("--key", type=click.Path(), metavar="PATH", help="The certificate's private key, PEM."),
        click.option("--cert", type=click.Path(), metavar="PATH",
                     help="Speak TLS with this certificate chain, PEM; SIGHUP reads it and the key again."),
        click.option("--fd", metavar="N", help="Listen on an inherited descriptor instead, or on those of `systemd`."),
        click.option("--uds", type=click.Path(), metavar="PATH", help="Listen on a Unix socket instead."),
        click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
                     help="Port to listen on; 0 takes a free one."),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    ]
    for option in options:
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """WebSocket broadcast: one message in, thousands of clients out."""


main.add_command(load_command)
main.add_command(bench_command)


@main.command("serve")
@_server_options
@click.option(
    "--relay", is_flag=True, help="Publish what a client sends to all clients of its channel, itself included."
)
@click.option("--page/--no-page", default=True, show_default=True, help="Answer browsers with a page.")
def serve_command(relay: bool, page: bool, **options: Any) -> None:
    """Serve channels: ws://HOST:PORT/prices is the channel "prices", / is the default one."""
    _serve(page=page, relay=relay, **options)


@main.command()
@_server_options
def demo(**options: Any) -> None:
    """A relay, a page and a small live feed: start here."""
    _serve(page=True, relay=True, background=_demo, **options)


@main.command("publish")
@click.argument("url")
@click.argument("message", required=False)
def publish_command(url: str, message: str | None) -> None:
    """Send MESSAGE to the relay at URL, or each line of standard input as a message."""
    lines = sys.stdin if message is None else [message]
    _run_client(publish_to(url, lines))


@main.command("listen")
@click.argument("url")
def listen_command(url: str) -> None:
    """Print what arrives from URL, a line for each message."""
    _run_client(listen_to(url))


def _run_client(coroutine: Coroutine[Any, Any, int]) -> NoReturn:
    try:
        status = uvloop.run(coroutine)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may still wait for standard input: the interpreter's own end would wait for it


# The server's life.


def _serve(*, loop_name: str, log_level: str, **options: Any) -> None:
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    # Thousands of clients are the point; the hard limit stays what the administrator made it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS refuses "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run = uvloop.run if loop_name == "uvloop" else asyncio.run
    sys.exit(run(_run_server(**options)))


async def _run_server(
    *,
    host: str,
    port: int,
    page: bool,
    relay: bool,
    uds: str | None,
    fd: str | None,
    cert: str | None,
    key: str | None,
    handover_path: str | None,
    drain_seconds: float,
    background: Callable[[Hub, Server], Coroutine[Any, Any, None]] | None = None,
    **limits: Any,
) -> int:
    def settings_of(kind: type) -> dict[str, Any]:
        return {field.name: limits[field.name] for field in fields(kind) if field.name in limits}

    process = Process(handover_path, drain_seconds)
    try:
        hub = Hub(**settings_of(HubOptions))
        hub.configure("*", **settings_of(ChannelOptions))
        tls = _make_tls(cert, key)
        sock = None if fd is None else _inherit(fd)
        await process.find_predecessor()
        if process.predecessor is not None:
            uds, sock = None, process.predecessor.sockets
        serving = serve(hub, host, port, uds=uds, sock=sock, ssl=tls, page=page, **settings_of(ServerOptions))
    except ValueError as error:
        click.echo(f"fastbcast: {error}", err=True)
        return 2
    except HandoverFailed as error:
        click.echo(f"fastbcast: cannot take over at {handover_path}: {error}", err=True)
        return 1
    if relay:
        hub.on_message(lambda client, message: hub.publish(client.channel, message))
    if tls is not None:
        process.reloads.append(lambda: setattr(server, "ssl", _make_tls(cert, key)))
    try:
        server = await process.start(serving)
    except (OSError, UnicodeError) as error:  # UnicodeError: what can be no host's name
        where = getattr(error, "filename", None) or _address(host, port)
        reason = getattr(error, "strerror", None) or error
        click.echo(f"fastbcast: cannot listen on {where}: {reason}", err=True)
        return 1
    gc.freeze()  # what is alive now stays: later collections need not look at it
    click.echo(f"listening on {_describe(server)}")
    task = asyncio.create_task(background(hub, server)) if background is not None else None
    await process.run(server)
    if task is not None:
        task.cancel()
    return 0


def _make_tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError("--cert and --key belong together")
    return make_context(cert, key)


def _inherit(fd: str) -> list[socket.socket]:
    if fd == "systemd":
        return inherit_from_systemd()
    if not fd.isdecimal():
        raise ValueError(f"--fd is the number of a descriptor, or systemd, got {fd!r}")
    return [inherit(int(fd))]


def _describe(server: Server) -> str:
    """Name the first place where the server listens, as a URL where there is one."""
    address = server.sockets[0].getsockname()
    if not isinstance(address, tuple):
        return f"unix:{address}"
    return f"{'ws' if server.ssl is None else 'wss'}://{_address(server.host or address[0], address[1])}/"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _demo(hub: Hub, server: Server) -> None:
    """Publish a price that wanders, once a second, to the default channel."""
    if server.port:
        scheme = "http" if server.ssl is None else "https"
        address = _address(server.host or "127.0.0.1", server.port)
        click.echo(f"open {scheme}://{address}/ in a browser, best in two windows; Ctrl-C ends it")
    price = 64_000.0
    while True:
        step = random.gauss(0, 12)
        price += step
        hub.publish(DEFAULT_CHANNEL, f"BTC {price:,.2f} {'▲' if step >= 0 else '▼'} {abs(step):.2f}")
        await asyncio.sleep(1)
