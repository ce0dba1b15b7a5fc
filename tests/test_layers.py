"""Modules import only downwards: the folders of the package are layers, and each takes from those below it.

    ground <- deflate <- log <- fanout <- channel <- connection <- hub <- http <- server <- identity <- command
    load takes ground and deflate; command and testing take load; testing takes all but command

What counts as an import: `import`, `cimport`, those inside functions and under TYPE_CHECKING, and those of the stubs. A
module that tells a higher one something tells an object that it was given.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastbcast"
ENDINGS = (".py", ".pyi", ".pyx", ".pxd")

# From the bottom to the top. Folders are layers by their name; what stands on top of the package is named here.
COLUMN = [
    "ground", "deflate", "log", "fanout", "channel", "connection", "hub", "http", "server", "identity", "tokens",
    "command", "package",
]
ON_TOP = {
    "ground": [
        "_clock", "_frames", "_guard", "_ticker", "_version", "channel_names", "deadlines", "exceptions", "failures",
        "grant", "header_fields", "logging", "options", "typing", "urls",
    ],
    "channel": ["channel"],
    "hub": ["_publish_queue", "hub"],
    "tokens": ["tokens"],
    "command": ["__main__"],
    "package": ["__init__"],
}
FOLDERS = [
    "deflate", "log", "fanout", "connection", "http", "server", "identity", "command", "load", "testing",
]

# Imports upwards that are there all the same, each with its reason: {(module, what it imports): why}.
ALLOWED: dict[tuple[str, str], str] = {}


def find_layer(module: str) -> str | None:
    """The layer of a module, "log._compact" or "hub"; None if no layer names it."""
    first, _, rest = module.partition(".")
    if first in FOLDERS:
        return first
    return next((layer for layer, names in ON_TOP.items() if first in names and not rest), None)


def may_take(taker: str, taken: str) -> bool:
    if taker == taken:
        return True
    if taken == "load":
        return taker in ("command", "testing")
    if taken == "testing":
        return False
    if taker == "load":
        return taken in ("ground", "deflate")
    if taker == "testing":
        return taken not in ("command", "package")
    return COLUMN.index(taken) < COLUMN.index(taker)


def read_modules() -> dict[str, list[Path]]:
    """All modules of the package by their names without "fastbcast.", and the files of each."""
    modules: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in ENDINGS:
            modules.setdefault(".".join(path.relative_to(PACKAGE).with_suffix("").parts), []).append(path)
    return modules


# A statement of Cython, which `ast` does not read. What stands in brackets may go on over several lines.
_FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]+)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*c?import[ \t]+([^\n]+)", re.MULTILINE)


def read_statements(source: str, ending: str) -> list[tuple[str, list[str]]]:
    """All imports of a source: (what stands behind `from`, the names), or (a module, []) for `import`."""
    if ending in (".py", ".pyi"):
        found: list[tuple[str, list[str]]] = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                found.append(("." * node.level + (node.module or ""), [alias.name for alias in node.names]))
            elif isinstance(node, ast.Import):
                found += [(alias.name, []) for alias in node.names]
        return found
    source = re.sub(r"#[^\n]*", "", source)
    found = [(origin, re.findall(r"(\w+)(?:\s+as\s+\w+)?", names)) for origin, names in _FROM.findall(source)]
    return found + [(name, []) for names in _IMPORT.findall(source) for name in re.findall(r"[\w.]+", names)]


def find_imports(module: str, source: str, ending: str, modules: dict[str, list[Path]]) -> set[str]:
    """The modules of this package that a source imports; "__init__" is the package itself."""
    package = ["fastbcast", *module.split(".")[:-1]]
    taken = set()
    for origin, names in read_statements(source, ending):
        level = len(origin) - len(origin.lstrip("."))
        parts = [*package[: len(package) - level + 1], *filter(None, [origin.lstrip(".")])] if level else [origin]
        full = ".".join(parts)
        if full.partition(".")[0] != "fastbcast":
            continue
        base = full.partition(".")[2]
        for name in names or [""]:
            candidates = [".".join(filter(None, [base, name])), base, f"{base}.__init__" if base else "__init__"]
            taken.add(next(candidate for candidate in candidates if candidate in modules))
    return taken - {module}


def find_upward(module: str, taken: set[str]) -> set[str]:
    layer = find_layer(module)
    assert layer is not None
    return {name for name in taken if not may_take(layer, find_layer(name) or "package")}


def test_every_module_has_a_layer_and_every_layer_its_modules():
    modules = read_modules()
    assert len(modules) > 50, "the sources were not found"
    assert [name for name in modules if find_layer(name) is None] == [], "name them in ON_TOP, or give them a folder"
    assert [name for names in ON_TOP.values() for name in names if name not in modules] == []
    assert [folder for folder in FOLDERS if f"{folder}.__init__" not in modules] == []


def test_no_module_imports_upwards():
    modules = read_modules()
    upward = set()
    count = 0
    for module, paths in modules.items():
        for path in paths:
            taken = find_imports(module, path.read_text(), path.suffix, modules)
            count += len(taken)
            upward |= {(module, name) for name in find_upward(module, taken)}
    assert count > 200, "the imports were not read"
    for pair, why in ALLOWED.items():
        print(f"{pair[0]} imports {pair[1]}: {why}")
    assert sorted(upward - ALLOWED.keys()) == []
    assert sorted(ALLOWED.keys() - upward) == [], "these are gone: allow them no longer"


UPWARD = [
    pytest.param("log._log", "from fastbcast.fanout._slot cimport Slot\n", ".pyx", id="cimport"),
    pytest.param("log._log", "from fastbcast.fanout._slot cimport (\n    Slot,\n    Socket,\n)\n", ".pxd", id="lines"),
    pytest.param("log._log", "from fastbcast.fanout cimport _slot\n", ".pxd", id="a module out of a folder"),
    pytest.param("log._log", "cimport fastbcast.fanout._slot as slot\n", ".pyx", id="cimport of a module"),
    pytest.param("log._log", "from ..hub import Hub\n", ".pyi", id="stub"),
    pytest.param("connection.paused", "if TYPE_CHECKING:\n    from ..hub import Hub\n", ".py", id="TYPE_CHECKING"),
    pytest.param("http.origins", "def f():\n    from ..server import server\n", ".py", id="in a function"),
    pytest.param("server.tls", "import fastbcast.command.cli\n", ".py", id="import"),
    pytest.param("grant", "from . import hub\n", ".py", id="from the package's folder"),
    pytest.param("server.tls", "from fastbcast import serve\n", ".py", id="the package itself"),
    pytest.param("load.plan", "from ..log._log import Log\n", ".py", id="load takes the log"),
    pytest.param("server.server", "from ..load.plan import Plan\n", ".py", id="a server takes load"),
    pytest.param("command.cli", "from ..testing.server import BroadcastServer\n", ".py", id="testing"),
    pytest.param("testing.server", "from ..command import cli\n", ".py", id="testing takes the command"),
]


@pytest.mark.parametrize(("module", "source", "ending"), UPWARD)
def test_an_import_upwards_is_found(module, source, ending):
    modules = read_modules()
    assert module in modules
    taken = find_imports(module, source, ending, modules)
    assert find_upward(module, taken) == taken != set()


@pytest.mark.parametrize(
    ("module", "source", "ending"),
    [
        ("fanout._round", "from fastbcast.log._log cimport seq_at\nfrom libc.stdint cimport uint64_t\n", ".pyx"),
        ("hub", "from .connection._client import Client\nimport logging\n", ".py"),
        ("command.load", "from ..load import plan\n", ".py"),
        ("load.plan", "from ..deflate._inflate import Inflater\nfrom ..urls import prepare_url\n", ".py"),
        ("testing.server", "from ..server.server import serve\n", ".py"),
    ],
)
def test_an_import_downwards_is_none(module, source, ending):
    modules = read_modules()
    taken = find_imports(module, source, ending, modules)
    assert taken
    assert find_upward(module, taken) == set()
