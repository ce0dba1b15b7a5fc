"""`fastbcast bench`: the matrix is measured beside the floor, and the table is Markdown."""

import json
import subprocess
import sys

import pytest
from conftest import seconds

from fastbcast.load import bench
from fastbcast.load.bench import FASTBCAST, FLOOR, FULL, Cell, Matrix, Row, measure_matrix, ratios, why_left_out
from fastbcast.load.crew import LoadFailed
from fastbcast.load.table import make_bench_table, print_bench
from fastbcast.load.target import ServerUnavailable, floor_command

BENCH = [sys.executable, "-m", "fastbcast", "bench"]


def result(cpu_us, *notes):
    return {"server": {"cpu_us_per_delivery": cpu_us}, "notes": list(notes)}


def test_the_quick_form_prints_a_row_for_each_cell_and_keeps_all_figures(tmp_path):
    path = tmp_path / "bench.json"
    done = subprocess.run(
        [*BENCH, "--quick", "--clients", "20", "--json", str(path)],
        capture_output=True, text=True, timeout=seconds(100),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("about ")
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, done.stdout
    assert [cell.strip() for cell in lines[0][:7]] == [
        "clients", "in flight", "size", "slow", "compression", "bytes each", "deliveries/s",
    ]
    assert [tuple(line[at].strip() for at in (1, 2, 4, 5)) for line in lines[2:6]] == [
        ("1", "64 B", "off", "66"), ("1", "1 KiB", "off", "1,028"),
        ("64", "64 B", "off", "66"), ("64", "1 KiB", "off", "1,028"),
    ]
    for line, in_flight in zip(lines[6:], ("1", "64"), strict=True):
        assert [line[at].strip() for at in (1, 2, 4)] == [in_flight, "1 KiB", "window"]
        assert int(line[5]) < 500
    rows = json.loads(path.read_text())["rows"]
    assert [row["server"] for row in rows] == [*[FASTBCAST, FLOOR] * 4, FASTBCAST, FASTBCAST]
    assert all(row["results"][0]["missing"] == 0 and row["results"][0]["deliveries"] > 0 for row in rows)


def test_what_would_not_fit_is_left_out():
    left_out = [cell for cell in FULL.cells() if why_left_out(cell)]
    assert Cell(15000, 64, 65536) in left_out
    assert Cell(100, 64, 65536) not in left_out
    assert why_left_out(Cell(15000, 64, 65536)) == "58.6 GiB would be under way"


def test_a_ratio_is_taken_within_a_round():
    cell = Cell(1, 1, 64)
    own = Row(cell, FASTBCAST, [result(2.0), result(9.0), result(None)])
    floor = Row(cell, FLOOR, [result(1.0), result(10.0), result(1.0)])
    assert ratios(own, floor) == [2.0, 0.9]


def test_a_round_that_fails_has_no_ratio_and_the_others_keep_theirs(monkeypatch):
    outcomes = iter([2.0, LoadFailed("planted"), 9.0, 10.0])

    def measure(row, *rest):
        outcome = next(outcomes)
        if isinstance(outcome, LoadFailed):
            raise outcome
        row.results.append(result(outcome))

    monkeypatch.setattr(bench, "_measure", measure)
    own, floor = measure_matrix(Matrix((1,), (1,), (64,), (0.0,), 1.0), 2, is_quiet=True)
    assert ratios(own, floor) == [0.9]
    assert floor.median("server", "cpu_us_per_delivery") == 10.0
    assert floor.problems == ["round 1: planted"]


@pytest.mark.parametrize(
    ("note", "mark"),
    [
        ("INVALID: the clients used 99%", "c"),
        ("INVALID as a limit of the server: it used 50%", "s"),
        ("the clients waited 9% of the time", "w"),
        ("judged by the first subscriber", ""),
    ],
)
def test_a_row_that_cannot_be_believed_is_marked_and_the_mark_explained(capsys, note, mark):
    row = Row(Cell(1, 1, 64), FASTBCAST, [result(1.0), result(1.0, note)])
    assert row.marks == mark
    assert make_bench_table([row]).columns[-1]._cells == [mark]
    print_bench([row])
    below = [line for line in capsys.readouterr().out.splitlines() if line.strip() and not line.startswith("|")]
    assert [line.partition(": ")[0] for line in below] == list(mark)


@pytest.mark.parametrize("clients", ["", "many", "0", "1,,2"])
def test_numbers_of_clients_that_are_none_are_refused(clients):
    done = subprocess.run([*BENCH, "--clients", clients], capture_output=True, text=True, timeout=seconds(30))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_matrix_of_which_each_load_is_left_out_is_no_result():
    done = subprocess.run(
        [*BENCH, "--quick", "--clients", "100000000"], capture_output=True, text=True, timeout=seconds(30)
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "nothing was measured: each load of the matrix is left out" in done.stderr


def test_a_table_that_cannot_be_printed_costs_no_file(tmp_path):
    path = tmp_path / "bench.json"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*BENCH, "--quick", "--clients", "3", "--json", str(path)],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=seconds(100),
        )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "fastbcast: standard output: No space left on device"
    assert json.loads(path.read_text())["rows"]


def test_slow_clients_that_were_never_behind_are_a_mark():
    row = Row(Cell(1, 1, 64, 0.1), FASTBCAST, [result(1.0, "the slow clients were never behind: their sockets")])
    assert row.marks == "b"


def test_without_a_compiler_there_is_no_floor(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ServerUnavailable, match=r"no C compiler \(no-such-compiler\)"):
        floor_command("each", tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(ServerUnavailable, match="floor: false failed"):
        floor_command("each", tmp_path)
