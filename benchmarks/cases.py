"""A case: one load on some servers, which becomes one table."""

from __future__ import annotations

from dataclasses import dataclass, field

from columns import CPU_US, Column

LOAD = "fastbcast load"


@dataclass(frozen=True)
class Variant:
    """One of several loads of a case, for each of its servers; or one server with several options."""

    title: str
    load: list[str] = field(default_factory=list)
    server_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One table: what is measured, on which servers, and the columns that answer its question.

    A case has one row for each server, or one for each server and variant. The ratio is to the row of the
    reference server; with variants and no reference it is to the same server's first variant.
    """

    title: str
    load: list[str]  # options of the program
    servers: tuple[str, ...]
    reference: str  # "": no ratio, unless there are variants
    columns: tuple[Column, ...]
    judged: Column | None = CPU_US  # the figure whose ratio is taken; None: no ratio
    is_about_speed: bool = True  # False: what the load generator notes about speed does not matter
    variants: tuple[Variant, ...] = ()
    program: str = LOAD  # or a script below benchmarks/
    has_server: bool = True  # False: the program is the server, too
    has_server_pid: bool = False  # the script is told the server's process, too
    has_bound: bool = False  # fastbcast's memory must stay within what it promises
    hard_cap_bytes: int = 0  # the promise for a channel's backlog; 0: the installed fastbcast's defaults
    may_peers_stop: bool = False  # a peer that loses messages or stops is a result, not a failure
    min_connects: int = 0  # of the churn, without which there is no p99 of them
