"""The tables of SECURITY.md, row by row, and what is seen of a real server that is brought to a row's limit.

    SECURITY.md --read_rows--> Row: answers, counters, defaults      what it says
    @proves(attack) scenario(seen)  -->  Evidence                    what was seen
                                            check(row, evidence): the one is the other
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import LOOPS, run_on
from raw_client import answer_of
from reference import CLOSE

from fastbcast.options import ChannelOptions, HubOptions, ServerOptions

ROOT = Path(__file__).parent.parent
KIB = 1024
UNITS = {"": 1, " KiB": KIB, " MiB": KIB * KIB}
DEFAULTS = {
    option.name: option.default for options in (HubOptions, ChannelOptions, ServerOptions) for option in fields(options)
}
NONE = {"none": (0, ()), "off": ("off",), "nobody": ((),)}
ORDINARY = {
    ("disconnects", "client"), ("disconnects", "connection_lost"), ("disconnects", "going_away"),
}
"""How connections of the tests themselves end."""


@dataclass(frozen=True)
class Row:
    """What the table says of one attack."""

    attack: str
    is_made: bool           # in tests/attacks.py: the row has a star
    defence: str
    answers: frozenset      # what the client sees
    counters: frozenset     # (group of the stats, name), or (name, "") for one without a group

    @property
    def defaults(self):
        """Each option that the row gives a value for: {name: the values of options.py that this may stand for}."""
        found = re.findall(r"`(\w+)`(?: is|:)? \*{0,2}(none|off|nobody|[\d,]+\b( KiB| MiB)?)", self.defence)
        return {
            name: NONE.get(value) or (int(re.sub(r"\D", "", value)) * UNITS[unit],)
            for name, value, unit in found if name in DEFAULTS
        }

    @property
    def options(self):
        """The options that the row names."""
        return {name for name in re.findall(r"`(\w+)`", self.defence) if name in DEFAULTS}


def _read_counters(cell):
    counters, group = set(), None
    for part in re.findall(r"`(?:(\w+): )?(\w+)`|the (log):", cell):
        if part[2]:
            group = "log"
        else:
            group = part[0] or group
            counters.add((group, part[1]) if group else (part[1], ""))
    return frozenset(counters)


def _read_row(line):
    attack, defence, answer, counters = [cell.strip() for cell in line.strip()[1:-1].split("|")]
    answers = re.split(r", or |, | or ", re.sub(r"`|CLOSE ", "", answer))
    return Row(
        re.sub(r"[*`]", "", attack), "*" in attack, defence, frozenset(filter(None, answers)), _read_counters(counters)
    )


def read_rows(title):
    """The rows of the table under the heading `title`."""
    text = (ROOT / "SECURITY.md").read_text()
    section = text.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [_read_row(line) for line in lines[2:]]


@dataclass
class Evidence:
    """What a scenario has seen; and the fixtures that it may use."""

    authority: object
    monkeypatch: object
    caplog: object
    tmp_path: object
    answers: set = field(default_factory=set)
    counters: set = field(default_factory=set)

    def saw(self, *answers):
        """The client saw this."""
        self.answers.update(map(str, answers))

    async def saw_answer(self, client):
        """The client has an HTTP answer; gives its headers."""
        status, headers, _ = await answer_of(client)
        self.saw(status, *(["Retry-After"] if "retry-after" in headers else []))
        return headers

    async def saw_close(self, client):
        """The client has a CLOSE."""
        last = (await client.read_to_close())[-1]
        assert last.opcode == CLOSE
        self.saw(int.from_bytes(last.payload[:2], "big"))

    def count(self, *sources):
        """Read the stats of servers and hubs."""
        for source in sources:
            for name, value in source.stats().items():
                if value:
                    self.counters.add((name, ""))
                if isinstance(value, dict) and name != "lag":
                    self.counters |= {(name, str(key)) for key, number in value.items() if number}

    def read_log(self):
        """Read the events that were logged."""
        self.counters |= {("log", record.event) for record in self.caplog.records if hasattr(record, "event")}


class Proof(NamedTuple):
    """Of one row."""

    scenario: Callable      # brings a real server to the limit
    made: str | None        # the function of attacks.py that makes it
    elsewhere: tuple        # tests that prove more of it
    loops: tuple


PROOFS = {}
"""By attack."""


def proves(attack, *, made=None, elsewhere=(), loops=tuple(LOOPS)):
    """A scenario that brings a real server to what a row defends against, and tests that prove more of the row."""

    def register(scenario):
        assert attack not in PROOFS, attack
        PROOFS[attack] = Proof(scenario, made, elsewhere, loops)
        return scenario

    return register


def each_row(title):
    """Make a test of each row of a table, on each event loop that its proof is for."""
    loops_and_rows = [
        pytest.param(loop, row, id=f"{row.attack}-{loop}")
        for row in read_rows(title) for loop in (PROOFS[row.attack].loops if row.attack in PROOFS else ("no proof",))
    ]
    return pytest.mark.parametrize(("loop", "row"), loops_and_rows)


def check(loop, row, evidence):
    """What the row says the client sees, and is counted, was seen; and no refusal or end that it does not name."""
    run_on(loop, PROOFS[row.attack].scenario(evidence))
    assert evidence.answers == row.answers
    assert row.counters <= evidence.counters
    causes = {counter for counter in evidence.counters if counter[0] in ("refused", "disconnects") and counter[1]}
    assert causes - ORDINARY == {counter for counter in row.counters if counter[0] in ("refused", "disconnects")}
