# What a person calls, and CI too (.ci/run). Everything is made inside this folder: .venv, .venv-asan, build.
#
#   .venv          the package, installed in place: a change of a .py is seen at once, a .pyx is compiled by make
#   build/<mode>   what Cython and the compiler made, for each FASTBCAST_BUILD: release, debug, sanitize, fuzz
#   .venv-asan     the same dependencies without the package: what runs there is build/sanitize, or nothing

PYTHON ?= python3
CC ?= cc
ARGS ?=
TESTS ?= tests
WORKERS ?= auto

BIN := $(CURDIR)/.venv/bin
ASAN_BIN := $(CURDIR)/.venv-asan/bin
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet

CONFIG := pyproject.toml setup.py
CORE := $(shell find fastbcast -name '*.pyx' -o -name '*.pxd' 2>/dev/null)
PACKAGE := pytest_fastbcast.py $(shell find fastbcast -type f ! -name '*.so' ! -name '*.pyc' 2>/dev/null)
# Tests that `make asan` leaves out: what they judge is Python's, or another program (options, ends and reports of the
# command, pages, benchmarks, pytest's plugin, browsers), and they get to compiled code on ways that other tests go, too.
NOT_COMPILED := benchmark cli cli_limits cli_tokens compliance compression_benchmark examples feeds foreign_clients gate \
    handover listen load_bench load_ends load_faults load_report origins page peers proxies pytest_plugin request streams \
    tokens urls
COMPILED_TESTS := $(filter-out $(NOT_COMPILED:%=tests/test_%.py),$(wildcard tests/test_*.py))
MODULES := $(subst /,.,$(patsubst %.pyx,%,$(sort $(filter %.pyx,$(CORE)))))
ifeq ($(and $(MODULES),$(COMPILED_TESTS)),)
$(error here is no fastbcast/*.pyx or no tests/test_*.py: make is for the folder of the repository)
endif
BUILD_REQUIRES := $(shell grep '^requires = ' pyproject.toml | grep -o '"[^"]*"')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help run test compliance compliance-asan fuzz lint types cov bench bench-quick gate debug asan dist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'ARGS="..." is passed on: make run ARGS="--port 9000", make test ARGS="-x -k lag", make test TESTS=tests/test_log.py'
	@echo 'WORKERS=0 runs the tests in one process (for a debugger); they are shared out among all processors otherwise.'
	@echo 'PYTHON=python3.13 chooses the interpreter of a new .venv; FASTBCAST_TEST_TIMEOUT_SCALE=3 stretches time-outs.'

run: .venv/built  ## install what is needed and start a demo: a server, a page, a live feed
	@$(BIN)/fastbcast demo $(ARGS)

test: .venv/built .venv/extra-test tests/node/node_modules  ## run the tests
	$(BIN)/python -m pytest $(in_parallel) $(TESTS) $(ARGS)

compliance: .venv/built build/compliance/suite/made  ## the Autobahn test suite; ARGS=--short, ARGS="--cases 5.* 6.4.*"
	$(BIN)/python tests/compliance/run.py $(ARGS)

lint: .venv/extra-lint  ## ruff, cython-lint, codespell
	$(BIN)/ruff check .
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint fastbcast
	$(BIN)/codespell

types: .venv/built .venv/extra-lint  ## mypy --strict, and the stubs against the compiled modules
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest $(MODULES) --allowlist tests/stubtest_allowlist.txt

bench: .venv/built .venv/extra-bench  ## the small benchmarks (pytest-benchmark), and the tests of plot.py
	$(BIN)/python -m pytest benchmarks $(ARGS)

bench-quick: .venv/built .venv/extra-load  ## the end-to-end benchmark in its short form; the long ones: benchmarks/README.md
	$(BIN)/python benchmarks/run.py quick $(ARGS)

gate: .venv/built .venv/extra-load  ## fail if a step of the data path takes more instructions than recorded (valgrind)
	$(BIN)/python benchmarks/gate.py $(ARGS)

# The other builds are whole packages in a folder of their own. Tests run from there, so that they and the
# processes they start import that package and not the one in place.

debug: build/debug/built .venv/extra-test tests/node/node_modules  ## run the tests on a build without optimisation
	cd build/debug/lib && PYTHONPATH="$$PWD" $(BIN)/python -m pytest $(in_parallel) $(call from_here,$(TESTS)) $(ARGS)

cov: build/debug/built .venv/extra-test .venv/extra-cov tests/node/node_modules  ## the tests' line coverage, .pyx too; HTML in build/coverage
	cd build/debug/lib && rm -f .coverage* && export PYTHONPATH="$$PWD" COVERAGE_RCFILE="$(CURDIR)/pyproject.toml" && \
	status=0 && { $(BIN)/coverage run -m pytest $(call from_here,$(TESTS)) $(ARGS) || status=$$?; } && \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage html --quiet -d "$(CURDIR)/build/coverage" && \
	$(BIN)/coverage report && exit $$status

asan: TESTS = $(COMPILED_TESTS)
asan: build/sanitize/built tests/node/node_modules  ## the tests of compiled code with address and undefined-behaviour sanitizers (gcc)
	$(call sanitized,$(ASAN_BIN)/python -m pytest $(in_parallel) $(call from_here,$(TESTS)) $(ARGS))

compliance-asan: build/sanitize/built build/compliance/suite/made  ## the Autobahn test suite on that build
	$(call sanitized,$(ASAN_BIN)/python "$(CURDIR)/tests/compliance/run.py" $(ARGS))

fuzz: build/fuzz/built .venv/extra-fuzz  ## fuzz what reads a client's bytes (clang); ARGS="--seconds 600", ARGS=--merge
	$(BIN)/python tests/fuzz/run.py $(ARGS)

define sanitized
	rm -f build/sanitize/report.*
	cd build/sanitize/lib && export PYTHONPATH="$$PWD" PYTHONMALLOC=malloc && log="log_path=$(CURDIR)/build/sanitize/report" && \
	export FASTBCAST_SANITIZERS="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS="$$log:detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1" \
	UBSAN_OPTIONS="$$log:print_stacktrace=1:halt_on_error=1" \
	FASTBCAST_TEST_TIMEOUT_SCALE="$${FASTBCAST_TEST_TIMEOUT_SCALE:-3}" && \
	$(ASAN_BIN)/python "$(CURDIR)/.ci/check_sanitizers.py" . && status=0 && { $(1) || status=$$?; } && \
	for report in "$(CURDIR)"/build/sanitize/report.*; do test ! -e "$$report" || { cat "$$report"; status=1; }; done && \
	exit $$status
endef

# A file of tests is one worker's: what a module's fixtures start is started once.
in_parallel = -n $(WORKERS) --dist loadfile

from_here = -c "$(CURDIR)/pyproject.toml" --rootdir="$(CURDIR)" $(addprefix $(CURDIR)/,$(1))

dist: .venv/extra-dist  ## the sdist, and the wheel made of it, in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist $(ARGS)
	$(BIN)/twine check --strict dist/*

clean:  ## remove everything that make made, .venv included
	rm -rf .venv .venv-asan build dist *.egg-info tests/node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage*
	find fastbcast -name '*.so' -exec rm -f {} +
	find fastbcast tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# How the above is made.

.venv/made .venv-asan/made: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_MACHINE"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) $(BUILD_REQUIRES)
	@touch $@

# With other settings all is made anew: Cython and setuptools compare the ages of sources only.
.venv/built: .venv/made $(CONFIG) $(CORE)
	@$(if $(filter $(CONFIG),$?),rm -rf build/release)
	$(if $(filter-out $(CORE),$?),\
	    $(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable '.[load]',\
	    $(BIN)/python setup.py --quiet build_ext --inplace)
	@touch $@

.venv/extra-%: .venv/made pyproject.toml
	$(BIN)/python -c "$$REQUIREMENTS" $* | xargs $(BIN)/python $(PIP_INSTALL)
	@touch $@

.venv-asan/extra-test: .venv-asan/made pyproject.toml
	$(ASAN_BIN)/python -c "$$REQUIREMENTS" test | xargs $(ASAN_BIN)/python $(PIP_INSTALL)
	@touch $@

build/debug/built: .venv/extra-test $(CONFIG) $(PACKAGE)
	@$(if $(filter $(CONFIG),$?),rm -rf build/debug)
	FASTBCAST_BUILD=debug $(BIN)/python setup.py --quiet build --build-lib build/debug/lib
	@cd build/debug && find fastbcast -name '*.c' -exec cp {} lib/{} \;  # where Cython's coverage plugin looks for them
	@touch $@

build/sanitize/built: .venv-asan/extra-test $(CONFIG) $(PACKAGE) Makefile
	@$(if $(filter $(CONFIG),$?),rm -rf build/sanitize)
	FASTBCAST_BUILD=sanitize $(ASAN_BIN)/python setup.py --quiet build --build-lib build/sanitize/lib
	@echo "$$SITECUSTOMIZE" >build/sanitize/lib/sitecustomize.py
	@touch $@

# What is fuzzed is compiled and no more, so the package there imports nothing by itself.
build/fuzz/built: .venv/made $(CONFIG) $(PACKAGE)
	@command -v clang >/dev/null || { echo "clang was not found: install it and its libclang-rt-dev" >&2; exit 1; }
	@$(if $(filter $(CONFIG),$?),rm -rf build/fuzz)
	FASTBCAST_BUILD=fuzz $(BIN)/python setup.py --quiet build --build-lib build/fuzz/lib
	@: >build/fuzz/lib/fastbcast/__init__.py
	@touch $@

build/compliance/suite/made: tests/compliance/requirements.txt tests/compliance/suite.py | .venv/extra-compliance
	$(BIN)/python tests/compliance/suite.py $(@D)
	@touch $@

tests/node/node_modules: $(wildcard tests/node/package-lock.json)
	@if ! command -v npm >/dev/null; then echo "no npm: tests with Node clients cannot run"; \
	else npm ci --prefix tests/node --no-audit --no-fund --loglevel=error && touch $@; fi

define CHECK_MACHINE
import os, shlex, shutil, subprocess, sys, sysconfig
compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
try:
    import ensurepip, venv
except ImportError:
    venv = None
sys.exit(
    f"Python 3.10 or newer is needed, $(PYTHON) is {sys.version.split()[0]}" if sys.version_info < (3, 10)
    else "Python cannot make virtual environments: install python3-venv" if venv is None
    else "Python's C headers are missing: install python3-dev"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
    else f"the C compiler {compiler} was not found: install gcc or clang" if shutil.which(compiler) is None
    else "zlib's C headers are missing: install zlib1g-dev"
    if subprocess.run([compiler, "-E", "-include", "zlib.h", "-xc", os.devnull], capture_output=True).returncode
    else None
)
endef
export CHECK_MACHINE

# Prints the requirements of the package and of one of its extras, for `pip install` without building it.
define REQUIREMENTS
import sys
from setuptools.config.pyprojecttoml import read_configuration
project = read_configuration("pyproject.toml", expand=False)["project"]
print(*map(repr, project["dependencies"] + project["optional-dependencies"][sys.argv[1]]))
endef
export REQUIREMENTS

define SITECUSTOMIZE
"""The sanitizers' runtimes must be in Python before all else, but not in the browsers that tests start."""
import os
import sys
if runtimes := os.environ.get("FASTBCAST_SANITIZERS"):
    if os.environ.pop("LD_PRELOAD", None) != runtimes:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "LD_PRELOAD": runtimes})
endef
export SITECUSTOMIZE
