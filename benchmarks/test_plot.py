"""plot.py makes both pictures of what run.py has kept."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

PLOT = Path(__file__).parent / "plot.py"
MACHINE = {"processor": "Abacus", "cores": 2, "kernel": "Linux 6.18.5-x", "python": "3.11.7", "commit": None}


def rows(**figures):
    """Rows of a case: for each server the CPU time and the rate of every round."""
    return {
        name: {
            "notes": [],
            "rounds": [
                {"server": {"cpu_us_per_delivery": cpu}, "deliveries_per_second": rate} for cpu, rate in rounds
            ],
        }
        for name, rounds in figures.items()
    }


def case(title, load, servers):
    return {"case": title, "load": load.split(), "servers": servers}


@pytest.fixture
def plot(tmp_path):
    """Run plot.py on cases; returns (exit status, the SVG's texts with their height, the PNG)."""

    def run(*cases):
        file = tmp_path / "result.json"
        file.write_text(json.dumps({"scenario": "peers", "machine": MACHINE, "cases": cases}))
        done = subprocess.run([sys.executable, "-W", "error", str(PLOT), str(file)], capture_output=True, text=True)
        if done.returncode:
            return done.returncode, done.stderr
        texts = ElementTree.parse(tmp_path / "result.svg").iter("{http://www.w3.org/2000/svg}text")
        heights = {"".join(text.itertext()): float(text.get("y")) for text in texts}
        return heights, (tmp_path / "result.png").read_bytes()

    return run


def test_both_pictures_are_made_with_names_figures_and_machine(plot):
    servers = rows(fastbcast=[(7.0, 1e5), (8.0, 2e5), (7.5, 3e5)], tornado=[(60.0, 15300), (61.0, 15500)])
    texts, png = plot(case("1 in flight, judge all", "--size 128 --in-flight 1", servers))
    assert png.startswith(b"\x89PNG")
    names = {"fastbcast", "a loop over Tornado", "1 in flight, judge all", "--size 128 --in-flight 1"}
    figures = {"7.50", "60.5", "200 k", "15.4 k"}
    assert (names | figures) - set(texts) == set()
    assert [text for text in texts if "Abacus, 2 cores; Linux 6.18; CPython 3.11.7" in text]


def test_the_cheapest_is_on_top_and_one_without_a_result_comes_last(plot):
    texts, _ = plot(case("a", "--in-flight 1", rows(ws=[], bun=[(9, 1e5)], fastbcast=[(7, 1e5)], floor=[(8, 1e5)])))
    names = ["fastbcast", "C floor, a send each", "Bun publish", "Node ws"]
    assert sorted(names, key=texts.__getitem__) == names
    assert "no result" in texts


def test_a_row_with_a_note_is_marked(plot):
    servers = rows(fastbcast=[(7, 1e5)], bun=[(9, 1e5)], ws=[(9, 1e5)])
    servers["fastbcast"]["notes"] = ["in 2 of 3 rounds the clients waited 7% of the time for a processor"]
    servers["bun"]["notes"] = ["INVALID in 1 of 3 rounds: server CPU below 95 %", "round 2: WRONG: 3 missing"]
    servers["ws"]["notes"] = ["round 2: did not start"]
    texts, _ = plot(case("a", "--in-flight 1", servers))
    assert "INVALID in 1 of 3 rounds, WRONG" in texts
    assert "a round failed" in texts
    assert "waited" not in " ".join(texts)


def test_an_axis_is_logarithmic_when_the_bars_differ_widely(plot):
    texts, _ = plot(case("a", "--in-flight 64", rows(fastbcast=[(0.2, 9e4)], ws=[(20, 3e4)])))
    assert "CPU time per delivery, us: less is better (log scale)" in texts
    assert "deliveries per second: more is better" in texts


def test_only_closed_loops_are_drawn(plot):
    servers = rows(fastbcast=[(7, 1e5)])
    texts, _ = plot(case("closed", "--in-flight 1", servers), case("open", "--rate 50", servers))
    assert ("closed" in texts, "open" in texts) == (True, False)
    status, errors = plot(case("open", "--rate 50", servers), case("nobody", "--in-flight 1", rows(fastbcast=[])))
    assert (status, "no closed-loop case" in errors) == (2, True)
