"""The gate of the benchmarks: what it says of figures that were counted; the counting itself is left out."""

import json

import gate
import pytest

BEFORE = {"encode": 900.0, "append": 100.0}
TOOLCHAIN = {"python": "3.11.7", "uvloop": "0.23.0"}


@pytest.fixture
def run_gate(monkeypatch, tmp_path):
    """Run the gate on a machine where `after` is counted, and `base` is when a commit is built."""
    limits = tmp_path / "gate.json"
    limits.write_text(json.dumps({"allowed_excess": 0.05, "toolchain": TOOLCHAIN, "figures": BEFORE}))

    def run(*arguments, after=BEFORE, base=None, toolchain=TOOLCHAIN, is_shallow=False):
        def count_base(revision):
            if base is None:
                raise gate.NothingToCompare("it cannot be built")
            return base

        def answer_of_git(*command):
            return str(is_shallow).lower() if "--is-shallow-repository" in command else "abc1234"

        monkeypatch.setattr(gate, "LIMITS", limits)
        monkeypatch.setattr(gate, "count_figures", lambda: after)
        monkeypatch.setattr(gate, "count_base", count_base)
        monkeypatch.setattr(gate, "describe_toolchain", lambda: toolchain)
        monkeypatch.setattr(gate, "first_line_of", answer_of_git)
        return gate.main(arguments)

    run.limits = limits
    return run


def test_a_figure_is_the_difference_of_two_sizes_so_what_both_have_falls_out():
    parts = [None, ("encode", 600), None, ("append", 10), None, ("encode", 200), ("append", 20)]
    totals = [5_000_000, 61_000, 7, 1_500, 7, 21_000, 2_600]
    assert gate.subtract_sizes(parts, totals) == {"encode": 100.0, "append": 110.0}


def test_of_several_counts_of_a_size_the_shortest_is_taken():
    parts = [("encode", 100), ("encode", 100), ("encode", 300), ("encode", 300)]
    assert gate.subtract_sizes(parts, [60_000, 50_000, 70_000, 90_000]) == {"encode": 100.0}


def test_a_cut_without_a_total_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        gate.subtract_sizes([None, ("encode", 600)], [5_000_000])


@pytest.mark.parametrize("totals", [[0, 0], [500, 500], [700, 500]])
def test_a_step_of_which_callgrind_counted_nothing_is_no_figure(totals):
    figures = gate.subtract_sizes([("encode", 100), ("encode", 300)], totals)
    with pytest.raises(gate.NothingToCompare, match="no instructions of encode"):
        gate.require_counts(figures)


def test_a_program_that_counted_no_step_is_no_figure():
    with pytest.raises(gate.NothingToCompare, match="no step"):
        gate.require_counts(gate.subtract_sizes([], []))


def test_figures_of_which_nothing_was_counted_are_neither_green_nor_recorded(run_gate, capsys, monkeypatch):
    empty = tuple(BEFORE)

    def count_nothing():
        return gate.require_counts(dict.fromkeys(empty, 0.0))

    assert run_gate() == 0
    recorded = run_gate.limits.read_text()
    monkeypatch.setattr(gate, "count_figures", count_nothing)
    for arguments in ([], ["--record"]):
        assert gate.main(arguments) == 2
        assert "callgrind counted no instructions of encode, append" in capsys.readouterr().err
    assert run_gate.limits.read_text() == recorded


@pytest.mark.parametrize("recorded", [{}, BEFORE | {"append": 0.0}, BEFORE | {"append": float("nan")}])
def test_a_recording_of_nothing_is_nothing_to_compare_with(run_gate, recorded):
    limits = json.loads(run_gate.limits.read_text())
    run_gate.limits.write_text(json.dumps(limits | {"figures": recorded}))
    assert run_gate(after=recorded) == 2


def test_a_figure_within_its_allowance_passes(run_gate, capsys):
    assert run_gate(after={"encode": 944.9, "append": 100.0}) == 0
    assert "LONGER" not in capsys.readouterr().out


def test_a_figure_above_it_fails_and_is_named_with_before_and_after(run_gate, capsys):
    assert run_gate(after={"encode": 945.1, "append": 100.0}) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "LONGER" in line]
    assert line.split()[:4] == ["encode", "900.0", "945.1", "+5.0%"]


def test_what_one_figure_gains_does_not_pay_for_another(run_gate, capsys):
    assert run_gate(after={"encode": 100.0, "append": 106.0}) == 1
    output = capsys.readouterr().out
    assert "encode" in output.split("shorter")[0]
    assert "append" in output.split("LONGER")[0].splitlines()[-1]


@pytest.mark.parametrize("after", [{"encode": 900.0}, BEFORE | {"inbound": 1.0}])
def test_a_figure_that_has_nothing_to_be_compared_with_fails(run_gate, capsys, after):
    assert run_gate(after=after) == 1
    assert "--record" in capsys.readouterr().out


def test_another_toolchain_is_not_judged_by_the_recorded_figures(run_gate, capsys):
    other = TOOLCHAIN | {"uvloop": "0.24.0"}
    twice_as_long = {figure: 2 * count for figure, count in BEFORE.items()}
    assert run_gate(toolchain=other, after=twice_as_long, base=twice_as_long) == 0
    output = capsys.readouterr().out
    assert "uvloop: 0.23.0; here 0.24.0" in output
    assert "abc1234" in output
    assert run_gate(toolchain=other, after=twice_as_long, base=BEFORE) == 1


def test_where_that_cannot_be_counted_the_gate_is_not_green(run_gate, capsys):
    assert run_gate(toolchain=TOOLCHAIN | {"uvloop": "0.24.0"}) == 2
    assert "it cannot be built" in capsys.readouterr().err


def test_a_shallow_clone_is_not_compared_with_itself(run_gate, capsys):
    assert run_gate(toolchain=TOOLCHAIN | {"uvloop": "0.24.0"}, base=BEFORE, is_shallow=True) == 2
    assert "shallow" in capsys.readouterr().err


def test_a_base_is_compared_with_even_where_figures_are_recorded(run_gate):
    assert run_gate("--base", "main", base={"encode": 800.0, "append": 100.0}) == 1


def test_recording_makes_what_is_counted_the_limit(run_gate):
    longer = {"encode": 1000.0, "append": 100.0}
    assert run_gate(after=longer) == 1
    assert run_gate("--record", after=longer) == 0
    assert run_gate(after=longer) == 0
