"""What a Host header may say: every text is judged as the slow reading of RFC 3986 in reference.py judges it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import is_host

from fastbcast.http.authority import is_authority

GOOD = [
    "", "a", "example.org", "EXAMPLE.org.", "a_b", "a:80", "a:", ":80", "a:0", "a:65535", "a:00080", "127.0.0.1:8080",
    "%C3%BC.example", "a!$&'()*+,;=~b", "[::1]", "[::1]:80", "[::]:", "[2001:DB8::7]", "[1:2:3:4:5:6:7:8]",
    "[1:2:3:4:5:6:7::]", "[::ffff:192.0.2.1]", "[fe80::1%25eth0]:80", "[fe80::1%eth0]", "[v1.a:b]",
    "xn--exmple-cua.org",
]
BAD = [
    " ", "a b", "a b/c", "a/", "a?b", "a#b", "a\\b", "u@a", "u:p@a", "a:b", "a:80:80", "a:-1", "a:65536", "a:+80",
    "a:" + "9" * 5000, "%zz", "a%", "a%4", "::1", "fe80::1", "[::1", "::1]", "[]", "[::1]80", "[::1]:x", "[a]", "[1:2]",
    "[1::2::3]", "[1:2:3:4:5:6:7:8:9]", "[12345::]", "[::1.2.3]", "[::1.2.3.256]", "[1.2.3.4]", "[fe80::1%]", "[v.a]",
    "[v1.]", "[[::1]]", "a, a", ", ", "a, b", "ü", "a\x00", "a\n", "a\t", "<a>", '"a"', "a^b", "{a}", "a|b", "[::1]\n",
    "a:٣",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_host_and_perhaps_a_port_may_be_named(text):
    assert is_authority(text)
    assert is_host(text)


@pytest.mark.parametrize("text", BAD)
def test_anything_else_may_not(text):
    assert not is_authority(text)
    assert not is_host(text)


ADDRESSES = st.ip_addresses().map(lambda address: f"[{address}]" if address.version == 6 else str(address))
PIECES = st.sampled_from([
    "a", "b.c", "f", "0", "80", "65535", "65536", "255.", "256", ".", ":", "::", "[", "]", "%", "%25", "%4", "%zz",
    "v1.", "@", " ", "/", ",", "!", "\xff", "12345", "::1", "fe80::1", "1:2:3:4:5:6:", "1:2:3:4:5:6:7", "1.2.3.4",
])


@given(text=st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: f"[{''.join(pieces)}]"),
    st.tuples(ADDRESSES, st.sampled_from(["", ":", ":80", ":65536", "x", "%25lo"])).map("".join),
    st.text(max_size=8),
))
def test_every_text_is_judged_as_the_grammar_does(text):
    assert is_authority(text) == is_host(text)
