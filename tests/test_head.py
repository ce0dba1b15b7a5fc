"""The head of a request: read in C, it has the headers that an obvious reading has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbcast.http._request_head import HeadParser

NAMES = st.sampled_from(["Host", "host", "X", "x-Role", "X-ROLE"])
# Few and short, so that the same comes twice; and whatever else a value may have.
VALUES = st.one_of(
    st.sampled_from(["", "a", "b", "same", " blanks\t ", "in the middle"]),
    st.text(st.sampled_from("a, \t\xe9\xff\"=;"), max_size=5),
)


def read_head(data):
    parser = HeadParser()
    parser.feed(data)
    return parser.head


@given(lines=st.lists(st.tuples(NAMES, VALUES)))
def test_values_are_stripped_and_those_of_one_name_are_joined(lines):
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    expected = {}
    for name, value in lines:
        expected.setdefault(name.lower(), []).append(value.strip(" \t"))
    assert read_head(f"GET / HTTP/1.1\r\n{head}\r\n".encode("latin-1")).headers == {
        name: ", ".join(values) for name, values in expected.items()
    }


def test_the_request_line_is_told_as_it_came():
    head = read_head(b"POST /a%20b?c#d HTTP/1.0\r\n\r\n")
    assert (head.method, head.url, head.http_version, head.headers) == (b"POST", b"/a%20b?c#d", "1.0", {})
    assert head.fault is None


@pytest.mark.parametrize("data", [b"HEAD / HTTP/1.1\r\nno colon\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_has_a_fault(data):
    head = read_head(data)
    assert head.fault
    assert (head.method == b"HEAD") == data.startswith(b"HEAD")     # it decides what the answer may be
