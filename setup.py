"""The compiled core: declared once, built plain, for debugging, or with sanitizers.

FASTBCAST_BUILD=release (default), debug (invariants are checked, lines can be traced for coverage),
or sanitize (address and undefined-behaviour sanitizers; the test run must preload their runtimes).
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = ["_frames", "_log", "_wire", "_fanout", "_client"]

BUILD = os.environ.get("FASTBCAST_BUILD", "release")
DIRECTIVES = {"language_level": 3, "binding": True, "embedsignature": True, "freethreading_compatible": False}
COMPILE = ["-O3", "-fno-strict-aliasing"]
LINK: list[str] = []
MACROS: list[tuple[str, str]] = []

if BUILD == "debug":
    DIRECTIVES |= {"linetrace": True, "profile": True}
    COMPILE = ["-O0", "-g"]
    MACROS = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
elif BUILD == "sanitize":
    COMPILE = [
        "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined", "-fno-sanitize=object-size",
    ]
    LINK = ["-fsanitize=address,undefined"]
elif BUILD != "release":
    sys.exit(f"FASTBCAST_BUILD={BUILD}: one of release, debug, sanitize")

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"fastbcast.{name}",
                [f"fastbcast/{name}.pyx"],
                extra_compile_args=COMPILE,
                extra_link_args=LINK,
                define_macros=MACROS,
            )
            for name in MODULES
        ],
        compiler_directives=DIRECTIVES,
        build_dir="build/cython",
        force=True,
    )
)
