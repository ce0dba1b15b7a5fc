"""The `fastbcast` command: serve, demo, publish, listen, load, bench."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop
from click.core import ParameterSource

from .. import logging as log
from .._version import __version__
from ..http._handshake import DEFAULT_CHANNEL
from ..hub import Hub
from ..identity.tokens import Tokens
from ..options import COMPRESSIONS, POLICIES, ChannelOptions, HubOptions, ServerOptions
from ..server.handover import HandoverFailed
from ..server.listeners import inherit, inherit_from_systemd, normalize_path
from ..server.process import Process
from ..server.server import Server, serve
from ..server.tls import make_context
from .load import bench_command, load_command
from .paths import UserPath
from .streams import StreamFailed, require_output
from .token_option import token_option
from .url_argument import require_text, url_argument

_Command = Callable[..., Any]

MAX_BYTES = 2**40
"""What any option of bytes may be: a terabyte."""

GC_THRESHOLD = (10_000, 20, 50)
"""For gc.set_threshold: a storm of clients makes objects that stay and are no garbage, and looking at all of them again
and again was 6 % of a handshake, and a pause for everybody. Cycles are rare here: CPython's own is (700, 10, 10)."""

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
    "compression": "What is done for clients that can permessage-deflate: nothing (off), each message alone (deflate), "
                   "or one window over a channel's messages for all of them where they can (window).",
    "compression_level": "From 1 (fastest) to 9 (smallest).",
    "compress_min_bytes": "Messages that are smaller go out as they are.",
    "window_bits": "The size of such a window, 2**N bytes, N from 9 to 15.",
    "reset_messages": "How often, at most, it begins anew so that clients can join.",
    # The hub.
    "max_message_bytes": "The largest message a client may send (1009 above).",
    "max_direct_bytes": "What may wait for one client beside its channels' messages.",
    "max_log_bytes": "What all channels may hold for clients that are behind.",
    "max_pinned_bytes": "What the rests of large messages may hold beside that.",
    "max_partial_bytes": "What all clients may have sent of unfinished messages (1013 to the oldest above).",
    "max_window_bytes": "What the windows of all channels may take; those without room compress each message alone.",
    "max_channels": "Channels there may be at once (503 above).",
    "max_channel_name_bytes": "The longest name of a channel (400 above).",
    "channel_name_pattern": "A regular expression for the names of channels (400 otherwise).",
    "max_inbound_messages_per_second": "What one client may send; above it reading from it pauses. 0: no limit.",
    "stall_seconds": "A client that takes nothing at all for so long is closed, under every policy.",
    # The server.
    "ping_seconds": "A client that was silent for so long is pinged; 0: nobody is.",
    "pong_seconds": "A client that stays silent for so long after a ping is closed (1011).",
    "max_connections": "Connections there may be at once (503 above).",
    "max_connections_per_address": "Those from one IPv4 address or IPv6 /64 network (429 above); loopback is exempt.",
    "max_handshakes": "Connections before their 101; above it the oldest whose head is not there is cut off.",
    "handshake_seconds": "How long the head of a request may take (408 above).",
    "max_head_bytes": "The largest head of a request (431 above).",
    "max_head_lines": "Lines of that head (431 above).",
    "notsent_lowat_bytes": "What the kernel may hold unsent of each connection; 0: as it likes.",
    "client_no_context_takeover": "Let clients compress each message alone: what is kept of one to read the next takes "
                                  "memory.",
    "send_buffer_bytes": "SO_SNDBUF of each connection; 0 leaves it to the kernel.",
}
"""The fields of ChannelOptions, HubOptions and ServerOptions that are options of `serve` and `demo`."""
_CONNECTS = (
    "It connects to URL's host itself: http_proxy and the like are not obeyed. A user and password in URL are sent as "
    "basic Authorization, unless there is a token."
)
_CHOICES = {"policy": POLICIES, "compression": COMPRESSIONS}
_MAY_BE_ZERO = {"notsent_lowat_bytes", "send_buffer_bytes", "compress_min_bytes"}


def _limit_options() -> list[Callable[[_Command], _Command]]:
    fields_by_name = {
        field.name: field for kind in (ChannelOptions, HubOptions, ServerOptions) for field in fields(kind)
    }

    def type_of(name: str) -> Any:
        if name in _CHOICES:
            return click.Choice(_CHOICES[name])
        if fields_by_name[name].type == "str":
            return str
        if fields_by_name[name].type == "bool":
            return bool
        if fields_by_name[name].type == "float":
            return click.FloatRange(min=0)
        return click.IntRange(0 if name in _MAY_BE_ZERO else 1, MAX_BYTES)

    def flag_of(name: str) -> str:
        words = name.replace("_", "-")
        return f"--{words}/--no-{words}" if fields_by_name[name].type == "bool" else f"--{words}"

    return [
        click.option(
            flag_of(name),
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
        click.option("--log-format", default="text", show_default=True, type=click.Choice(log.FORMATS),
                     help="Lines of text on standard error, or JSON objects, one a line."),
        click.option("--loop", "loop_name", type=click.Choice(["uvloop", "asyncio"]), default="uvloop",
                     show_default=True, help="The event loop."),
        click.option("--drain-seconds", type=click.FloatRange(min=0), default=5.0, show_default=True,
                     help="Over how long SIGTERM, or a handover, spreads the clients' ends (1012)."),
        *reversed(_limit_options()),
        click.option("--handover", "handover_path", type=UserPath(), metavar="PATH",
                     help="Take over from the process started with the same PATH, and let the next one do so."),
        click.option("--key", type=UserPath(), metavar="PATH", help="The certificate's private key, PEM."),
        click.option("--cert", type=UserPath(), metavar="PATH",
                     help="Speak TLS with this certificate chain, PEM; SIGHUP reads it and the key again."),
        click.option("--fd", metavar="N", help="Listen on an inherited descriptor instead, or on those of `systemd`."),
        click.option("--uds", type=UserPath(), metavar="PATH", help="Listen on a Unix socket instead."),
        click.option("--forwarded-allow-ips", metavar="ADDRESSES",
                     callback=lambda _context, _option, value: list(filter(str.strip, (value or "").split(","))),
                     help="Proxies whose X-Forwarded-For or Forwarded is believed: addresses and networks with commas "
                          "between them, `unix` for the peers of a Unix socket, `*` for all. Without it: nobody's."),
        click.option("--subprotocol", "subprotocols", multiple=True,
                     help="A subprotocol to settle on if a client offers it. May be repeated, the best first."),
        click.option("--origin", "origins", multiple=True,
                     help="Whose pages may connect: https://example.org, https://*.example.org (403 for others). May "
                          "be repeated. Without it: everybody's."),
        click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
                     help="Port to listen on; 0 takes a free one."),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    ]
    for option in options:
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]},
             help="WebSocket broadcast: one message in, thousands of clients out.")
@click.version_option(__version__)
def main() -> None:
    pass


main.add_command(load_command)
main.add_command(bench_command)


@main.command(
    "serve", help='Serve channels: ws://HOST:PORT/prices is the channel "prices", / is the default one.'
)
@_server_options
@click.option(
    "--relay", is_flag=True,
    help="Publish what any client sends to all clients of its channel, itself included. Without it, or a "
    "--publish-token-file, clients that send are closed with 1008.",
)
@click.option(
    "--subscribe-token-file", "subscribe_path", type=UserPath(path_type=Path),
    help="Only who holds a token of this file may subscribe. One token a line; patterns of channels may follow it.",
)
@click.option(
    "--publish-token-file", "publish_path", type=UserPath(path_type=Path),
    help="Only who holds a token of this file may publish.",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Answer browsers with a page.")
def serve_command(relay: bool, publish_path: Path | None, **options: Any) -> None:
    if relay and publish_path is not None:
        raise click.UsageError("--relay lets everybody publish, --publish-token-file does not: give one of them.")
    _serve(relay=relay, publish_path=publish_path, **options)


@main.command("demo", help="A relay, a page and a small live feed: start here.")
@_server_options
def demo_command(**options: Any) -> None:
    _serve(page=True, relay=True, background=_demo, **options)


@main.command("publish", help=f"""
    Send MESSAGE to the relay at URL, or each line of standard input as a message: UTF-8 text, without the LF or CRLF
    at its end.

    {_CONNECTS}

    Exit status: 0 if all was sent; 1 if not; 2 usage.
""")
@token_option
@url_argument
@click.argument("message", required=False, callback=require_text)
def publish_command(url: str, message: str | None, token: str | None) -> None:
    from .clients import publish_to, read_lines  # picows, which a server does without

    _run_client(publish_to(url, read_lines(sys.stdin.buffer) if message is None else [message], token))


@main.command("listen", help=f"""
    Print what arrives from URL, a line for each message.

    {_CONNECTS}

    Exit status: 0 when the server goes away; 1 if it refused, the connection was lost, or standard output cannot be
    written; 141, as SIGPIPE has it, if nobody reads that any more; 2 usage.
""")
@token_option
@url_argument
def listen_command(url: str, token: str | None) -> None:
    from .clients import listen_to

    require_output()
    _run_client(listen_to(url, token))


def _run_client(coroutine: Coroutine[Any, Any, int]) -> NoReturn:
    from .interim import Loop

    try:
        status = uvloop.run(coroutine, loop_factory=Loop)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except StreamFailed as failed:
        status = failed.tell()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may still wait for standard input: the interpreter's own end would wait for it


# The server's life.


def _check_places(context: click.Context) -> None:
    """Refuse two places to listen at: one of them would be without effect."""
    given = [
        f"--{name}" for name in ("uds", "fd", "host", "port")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if len(given) > 1 and given != ["--host", "--port"]:
        raise click.UsageError(f"{given[0]} and {given[1]} are two places to listen at: give one of them.")


def _serve(*, loop_name: str, log_level: str, log_format: str, **options: Any) -> None:
    _check_places(click.get_current_context())
    log.configure(log_level, log_format)
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
    subscribe_path: Path | None = None,
    publish_path: Path | None = None,
    background: Callable[[Hub, Server], Coroutine[Any, Any, None]] | None = None,
    **limits: Any,
) -> int:
    def settings_of(kind: type) -> dict[str, Any]:
        return {field.name: limits[field.name] for field in fields(kind) if field.name in limits}

    process = Process(handover_path, drain_seconds)
    try:
        if handover_path is not None:
            normalize_path("--handover", handover_path)
        hub = Hub(**settings_of(HubOptions))
        hub.configure("*", **settings_of(ChannelOptions))
        tls = _make_tls(cert, key)
        sock = None if fd is None else _inherit(fd)
        tokens = Tokens(subscribe_path, publish_path, relay=relay)
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
    hub.authorize(tokens)
    hub.on_message(hub.relay)
    asyncio.get_running_loop().set_exception_handler(log.handle_loop_error)
    if tls is not None:
        process.reloads.append(lambda: setattr(server, "ssl", _make_tls(cert, key)))
    if subscribe_path is not None or publish_path is not None:
        process.reloads.append(tokens.reload)
    try:
        server = await process.start(serving)
    except (OSError, UnicodeError) as error:  # UnicodeError: what can be no host's name
        where = getattr(error, "filename", None) or _address(host, port)
        reason = getattr(error, "strerror", None) or error
        click.echo(f"fastbcast: cannot listen on {where}: {reason}", err=True)
        return 1
    gc.freeze()  # what is alive now stays: later collections need not look at it
    gc.set_threshold(*GC_THRESHOLD)
    _announce(f"listening on {_describe(server)}")
    task = asyncio.create_task(background(hub, server)) if background is not None else None
    await process.run(server)
    if task is not None:
        task.cancel()
    return 0


def _announce(text: str) -> None:
    """Print a line on standard output if that can be done: a server has other work to do than that."""
    try:
        click.echo(text)
    except StreamFailed as failed:
        if failed.errno != errno.EBADF:     # else it was closed by somebody who wants no line
            failed.tell()


def _make_tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError("--cert and --key belong together")
    return make_context(cert, key)


def _inherit(fd: str) -> list[socket.socket]:
    if fd == "systemd":
        return inherit_from_systemd()
    if not (fd.isascii() and fd.isdecimal()):
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
        _announce(f"open {scheme}://{address}/ in a browser, best in two windows; Ctrl-C ends it")
    price = 64_000.0
    while True:
        step = random.gauss(0, 12)
        price += step
        hub.publish(DEFAULT_CHANNEL, f"BTC {price:,.2f} {'▲' if step >= 0 else '▼'} {abs(step):.2f}")
        await asyncio.sleep(1)
