"""SECURITY.md as a whole: no row without a proof, no proof without a row, no default but that of options.py."""

import importlib

import attacks
import pytest
import test_security_clients
import test_security_entry
from security_table import DEFAULTS, PROOFS, read_rows

from fastbcast.options import HubOptions, ServerOptions

ROWS = [*read_rows("Before the 101"), *read_rows("Behind it")]
PROOF_FILES = (test_security_entry, test_security_clients)  # which register what they prove


def test_every_row_has_its_proof_and_every_proof_its_row():
    assert {row.attack for row in ROWS} == set(PROOFS)
    assert {proof.scenario.__module__ for proof in PROOFS.values()} == {file.__name__ for file in PROOF_FILES}


def test_what_is_said_to_be_attacked_is_and_every_attack_is_said():
    assert {row.attack for row in ROWS if row.is_made} == {name for name, proof in PROOFS.items() if proof.made}
    made = {proof.made for proof in PROOFS.values() if proof.made}
    assert made == {attack.__name__ for attack in [*attacks.ATTACKS, attacks.tls_storm]}


@pytest.mark.parametrize("test", sorted({test for proof in PROOFS.values() for test in proof.elsewhere}))
def test_what_is_proved_elsewhere_is(test):
    module, name = test.split(".")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.attack)
def test_the_defaults_of_a_row_are_those_of_the_options(row):
    for name, values in row.defaults.items():
        assert DEFAULTS[name] in values, name


def test_the_default_of_every_option_is_given():
    given = {name for row in ROWS for name in row.defaults}
    assert {name for row in ROWS for name in row.options} == given


def test_every_limit_that_a_client_can_meet_is_in_a_row():
    limits = {name for options in (HubOptions, ServerOptions) for name in options.__annotations__ if "max_" in name}
    of_the_application = {"max_threadsafe_bytes"}
    assert limits - of_the_application <= {name for row in ROWS for name in row.options}
