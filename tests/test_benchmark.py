"""benchmarks/run.py: what it asks the load generator for, and what it reads in the answer."""

import os

import pytest
import run
import scenarios
import servers
from cases import LOAD, Case
from columns import CPU_US, MIB

from fastbcast.command.load import parse_plan


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_every_load_of_a_scenario_can_be_run(name):
    for case in scenarios.SCENARIOS[name]():
        if case.program == LOAD:
            for variant in case.variants or (None,):
                plan = parse_plan(["ws://x/", *case.load, *(variant.load if variant else ())])
                assert len(plan.steady()) > 0


@pytest.fixture
def measure(monkeypatch):
    """Measure one round of a load on fastbcast; gives the row, and whether it was complete."""
    cores = sorted(os.sched_getaffinity(0))
    # That clients are late is for a machine to oneself, and test_load_faults.
    find_problems = run.find_problems
    monkeypatch.setattr(run, "find_problems", lambda result: find_problems({**result, "late": {"count": 0}}))

    def measure(load, **options):
        case = Case("tiny", load.split(), (servers.SUBJECT,), "", scenarios.CLOSED_COLUMNS, **options)
        commands = {servers.SUBJECT: servers.COMMANDS[servers.SUBJECT]()}
        (row,), is_complete = run.run_case(case, commands, 1, (cores[0], cores[-1]))
        return row, is_complete

    return measure


def columns_of(*names):
    """The columns of these scenarios that read the load generator's result."""
    cases = [case for name in names for case in scenarios.SCENARIOS[name]()]
    return {column.title: column for case in cases for column in case.columns if not column.title.startswith("timer")}


def test_every_column_finds_its_figure(measure, monkeypatch):
    if "FASTBCAST_SANITIZERS" in os.environ:    # their allocator keeps what is freed
        monkeypatch.setattr(run, "allowed_growth_bytes", lambda case, result: 2**40)
    row, is_complete = measure(
        "--clients 20 --slow 2:stall --churn 40 --duration 1 --in-flight 4 --warmup 5", has_bound=True
    )
    assert is_complete, row.notes
    columns = columns_of("lockstep", "openloop", "many", "memory", "stalled", "fair")
    assert [title for title, column in columns.items() if len(row.values(column)) != 1] == []


def test_healthy_clients_that_have_everything_are_a_hundred_percent(measure):
    row, _ = measure("--clients 20 --slow 2:stall --messages 30")
    assert scenarios.healthy_share(row.results[0]) == 100
    assert row.results[0]["deliveries"] == 18 * 30


def test_memory_of_a_connection_is_what_the_server_grew_by(measure):
    row, is_complete = measure("--clients 100 --idle --duration 0.1")
    assert is_complete, row.notes       # nothing arrived, and nothing had to
    server = row.results[0]["server"]
    grown_bytes = server["rss_after_bytes"] - server["rss_start_bytes"]
    assert scenarios.rss_bytes_per_connection(row.results[0]) == pytest.approx(grown_bytes / 100)
    assert grown_bytes > 0


def test_a_load_that_says_nothing_is_a_note_and_no_result(measure):
    row, is_complete = measure("--clients 2 --source-addresses 203.0.113.7")
    assert (row.results, is_complete) == ([], False)
    assert row.notes[0].startswith("round 1: source address 203.0.113.7")


def test_memory_over_the_bound_is_noted_and_a_failure(measure, monkeypatch):
    monkeypatch.setattr(run, "allowed_growth_bytes", lambda case, result: -1)
    row, is_complete = measure("--clients 2 --messages 5", has_bound=True)
    assert not is_complete
    assert any("OVER ITS BOUND" in note for note in row.notes)


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        ({"server": None, "allowed_growth_bytes": 2**40}, "BOUND NOT MEASURED: memory is not known"),
        ({"server": {"rss_before_bytes": 0, "rss_peak_bytes": MIB}, "allowed_growth_bytes": None},
         "BOUND NOT MEASURED: the bound is not known"),
        ({"server": {"rss_before_bytes": 0, "rss_peak_bytes": MIB}, "allowed_growth_bytes": MIB}, None),
    ],
)
def test_a_bound_that_was_not_measured_is_not_kept(figures, fault):
    assert run.judge_growth(figures) == fault


def test_a_case_in_which_no_server_has_a_result_is_a_failure(capsys):
    case = Case("tiny", [], ("bun", "ws"), "", scenarios.CLOSED_COLUMNS, may_peers_stop=True)
    assert run.run_case(case, {}, 1, (0, 0)) == ([], False)
    assert "tiny: nothing was measured" in capsys.readouterr().err


def test_the_allowed_growth_is_the_bound_of_a_channel_and_of_each_stalled_client():
    case = Case("", [], (), "", (), hard_cap_bytes=20 * MIB)
    result = {"settings": {"size_bytes": 4086}, "slow_clients": {"count": 3}}
    assert run.allowed_growth_bytes(case, result) == 20 * MIB + 4096 + 3 * (1024 + 4096)


def test_notes_are_counted_by_kind_with_the_mark_in_front():
    rounds = [
        {"notes": ["INVALID as a limit of the server: it used 40%", "the clients waited 7% of the time"]},
        {"notes": ["INVALID as a limit of the server: it used 50%", "NOT COMPARABLE: judged by"]},
        {"notes": []},
    ]
    assert run.describe_notes(rounds) == [
        "INVALID in 2 of 3 rounds as a limit of the server: it used 50%",
        "in 1 of 3 rounds the clients waited 7% of the time",
        "NOT COMPARABLE in 1 of 3 rounds: judged by",
    ]


def test_what_is_not_about_speed_has_no_notes_on_it(measure):
    row, _ = measure("--clients 2 --rate 20 --messages 4", is_about_speed=False)
    assert row.notes == []


def test_a_figure_that_is_not_known_is_none():
    assert CPU_US.read({"server": None}) is None
    assert CPU_US.read({}) is None
