"""What a run has shown: what was wrong, what was found to be right, and what nobody can know.

The terminal, the JSON, the page and the exit status all say what stands here. A run in which nothing was measured has
no verdict: it has a problem, and its exit status is not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .result import WRONG_COUNTS, Result

__all__ = ["Verdict", "find_problems", "judge"]


@dataclass(frozen=True)
class Verdict:
    kind: str
    """good, doubtful or bad."""
    text: str


def find_problems(result: Result) -> list[str]:
    """What was wrong with the messages or connections, and what was asked for and not measured or not met, in words."""
    nothing = _why_nothing(result)
    problems = [] if nothing is None else [nothing]
    if nothing is None and result["stopped"]:
        problems.append("nothing arrived any more, and the rest was not waited for")
    problems += [f"{result[name]:,} messages {name}" for name in WRONG_COUNTS if result[name]]
    if result["lost"]:
        codes = ", ".join(f"{code}: {count:,}" for code, count in result["closes"].items())
        problems.append(f"{result['lost']:,} connections ended by the server ({codes})")
    if result["handshakes"]["refused"]:
        why = next(iter(result["handshakes"]["problems"]), "")
        problems.append(f"{result['handshakes']['refused']:,} handshakes refused ({why})")
    if result["late"]["count"]:
        late = result["late"]
        problems.append(
            f"{late['count']:,} clients late: the worst by {late['worst_ms']:.1f} ms on average, the median client"
            f" by {late['median_ms']:.1f}"
        )
    if nothing is None:
        problems += _find_idle_options(result)
    return problems + _find_unmet(result)


def judge(result: Result) -> Verdict:
    problems, unmet = find_problems(result), _find_unmet(result)
    if problems == [_why_nothing(result), *unmet]:
        return Verdict("doubtful", "No verdict: nothing was measured")
    if problems:
        return Verdict("bad", "Something went wrong")
    if any(note.startswith("INVALID") for note in result["notes"]):
        return Verdict("doubtful", "The messages were right, but the figures are not valid")
    settings: dict[str, Any] = result["settings"]
    if settings["is_idle"]:
        return Verdict("good", "No connection was lost; messages were not judged")
    unknown = [name for name in WRONG_COUNTS if result[name] is None]
    if not unknown:
        return Verdict("good", f"No message was {_join(WRONG_COUNTS, 'or')}")
    seen = "no message was corrupt, no connection was lost"
    if "corrupt" in unknown:
        seen = "no message broke the protocol, no connection was lost"
    return Verdict("good", f"Nothing wrong was seen: {seen}. Not known: what is {_join(unknown, 'or')}")


def _why_nothing(result: Result) -> str | None:
    """Why there is nothing to judge; None if there is something."""
    if not result["seconds"]:
        return "nothing was measured: it was interrupted before"
    settings = result["settings"]
    if result["deliveries"] or settings["is_idle"]:
        return None
    if result["messages_received"]:
        return f"no message arrived in the measured time, {result['messages_received']:,} before or after it"
    question = "does the server send what a client says to all clients of its URL?"
    if settings["expect_prefix"] is not None:
        question = "does the server send anything by itself on this URL? (clients that need none: --idle)"
    return f"no message arrived: {question}"


def _find_unmet(result: Result) -> list[str]:
    return [
        f"not met: {requirement['text']}: {requirement['found']}"
        for requirement in result["requirements"] if not requirement["is_met"]
    ]


def _find_idle_options(result: Result) -> list[str]:
    """What was asked for and has not taken place, so that nothing is known about it."""
    settings, problems = result["settings"], []
    if settings["churn_per_second"] and not result["handshakes"]["churned"]:
        problems.append("--churn was not measured: no client left before the end of the run (a longer run, or more)")
    if settings["has_deflate"] and result["messages_received"] and not result["messages_compressed"]:
        problems.append(
            "--deflate was not measured: no message came compressed. The server has no permessage-deflate, or did not"
            " use it"
        )
    return problems


def _join(words: Any, last: str) -> str:
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else str(final)
