"""The compiled core: declared once, built plain, for debugging, or with sanitizers.

FASTBCAST_BUILD=release (default), debug (not optimised, lines can be traced for coverage), sanitize
(address and undefined-behaviour sanitizers; the test run must preload their runtimes), or fuzz (what
tests/fuzz needs, with clang's address sanitizer and libFuzzer's counters). debug and sanitize check the
invariants of a channel after each of its sweeps.

Each has a folder of its own, build/<mode>: C files and modules are made again when a .pyx, a .pxd or
the C file before them changed, and never taken from another mode. Whoever changes this file removes
build/ (`make` does): nothing else notices other directives.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = sorted(".".join(path.with_suffix("").parts) for path in Path("fastbcast").rglob("*.pyx"))
if not MODULES:
    sys.exit("here is no fastbcast/*.pyx: setup.py is for the folder of the repository")
if sys.platform != "linux":  # the load generator stands on epoll
    MODULES = [name for name in MODULES if not name.startswith("fastbcast.load.")]
LIBRARIES = {"fastbcast.deflate._deflate": ["z"], "fastbcast.deflate._inflate": ["z"], "fastbcast.load._strand": ["z"]}
FUZZED = [
    "fastbcast._frames", "fastbcast.deflate._inflate", "fastbcast.connection._parser", "fastbcast.http._rules",
]

BUILD = os.environ.get("FASTBCAST_BUILD", "release")
BUILD_LIB = f"build/{BUILD}/lib-{sys.implementation.cache_tag}"
BUILD_TEMP = f"build/{BUILD}/temp-{sys.implementation.cache_tag}"
DIRECTIVES = {"language_level": 3, "binding": True, "embedsignature": True, "freethreading_compatible": False}
COMPILE = ["-O3", "-fno-strict-aliasing"]
LINK: list[str] = []
MACROS: list[tuple[str, str]] = []

if BUILD == "debug":
    DIRECTIVES |= {"linetrace": True, "profile": True}
    COMPILE = ["-O0", "-g"]
    MACROS = [
        ("FASTBCAST_CHECKED", "1"),
        ("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0"),
    ]
elif BUILD == "sanitize":
    COMPILE = [
        "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined", "-fno-sanitize=object-size",
    ]
    LINK = ["-fsanitize=address,undefined"]
    MACROS = [("FASTBCAST_CHECKED", "1")]
elif BUILD == "fuzz":
    os.environ |= {"CC": "clang", "LDSHARED": "clang -shared"}  # gcc has no counters that libFuzzer knows
    MODULES = FUZZED
    COMPILE = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,fuzzer-no-link"]
    LINK = ["-fsanitize=address,fuzzer-no-link"]
elif BUILD != "release":
    sys.exit(f"FASTBCAST_BUILD={BUILD}: one of release, debug, sanitize, fuzz")


class BuildModules(build_ext):
    """Editable installs compile what changed, as every build does; in place there is room for one mode."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # setuptools would compile everything into a temporary folder
            self.build_lib, self.build_temp = BUILD_LIB, BUILD_TEMP

    def copy_extensions_to_source(self) -> None:
        self.force = True  # take this mode's modules, even if those there are newer: they may be another's
        super().copy_extensions_to_source()


setup(
    cmdclass={"build_ext": BuildModules},
    ext_modules=cythonize(
        [
            Extension(
                name,
                [f"{name.replace('.', '/')}.pyx"],
                extra_compile_args=COMPILE,
                extra_link_args=LINK,
                define_macros=MACROS,
                libraries=LIBRARIES.get(name, []),
            )
            for name in MODULES
        ],
        compiler_directives=DIRECTIVES,
        build_dir=f"build/{BUILD}",
    ),
    options={"build": {"build_lib": BUILD_LIB, "build_temp": BUILD_TEMP}, "build_ext": {"parallel": os.cpu_count()}},
)
