"""Fails unless sanitizers would find something here: `python .ci/check_sanitizers.py build/sanitize/lib`.

Of the package in that folder each compiled module must be instrumented for both sanitizers, this Python must import the
package from there, and have both runtimes loaded. Without one of these the tests would pass and have looked at nothing.
"""

import importlib.util
import sys
from pathlib import Path

INSTRUMENTED = {"address": b"__asan_init", "undefined-behaviour": b"__ubsan_handle_"}
RUNTIMES = ("libasan", "libubsan")


def find_faults(folder: Path) -> list[str]:
    modules = sorted((folder / "fastbcast").rglob("*.so"))
    found = importlib.util.find_spec("fastbcast")
    faults = []
    if not modules:
        faults.append(f"there is no compiled module in {folder}")
    for module in modules:
        code = module.read_bytes()
        faults += [f"{module.name} has no {name} sanitizer" for name, mark in INSTRUMENTED.items() if mark not in code]
    if found is None or found.origin is None or not Path(found.origin).resolve().is_relative_to(folder):
        faults.append(f"fastbcast is imported from {found and found.origin}, not from {folder}")
    loaded = Path("/proc/self/maps").read_text()
    return faults + [f"the runtime {runtime} is not loaded" for runtime in RUNTIMES if runtime not in loaded]


def main(folder: Path) -> int:
    faults = find_faults(folder)
    for fault in faults:
        print(f"check_sanitizers.py: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
