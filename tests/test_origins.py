"""The allow-list of origins: which patterns match what browsers send."""

import pytest

from fastbcast import Hub, serve
from fastbcast.origins import Origins


@pytest.mark.parametrize(
    ("pattern", "origin", "is_allowed"),
    [
        ("https://example.org", "https://example.org", True),
        ("https://EXAMPLE.org", "https://example.ORG", True),
        ("https://example.org", "https://example.org:443", False),  # a browser leaves it out
        ("https://example.org", "https://example.org:8443", False),
        ("https://example.org", "http://example.org", False),
        ("https://example.org", "https://www.example.org", False),
        ("https://example.org", "https://example.org/", False),
        ("https://example.org:8443", "https://example.org:8443", True),
        ("https://*.example.org", "https://www.example.org", True),
        ("https://*.example.org", "https://a.b.example.org", True),
        ("https://*.example.org", "https://example.org", False),
        ("https://*.example.org", "https://notexample.org", False),
        ("https://*.example.org", "https://www.example.org.evil.example", False),
        ("https://*.example.org", "https://evil.example/.example.org", False),
        ("https://*.example.org", "https://evil.example#.example.org", False),
        ("https://*.example.org", "https://user@www.example.org", False),
        ("https://*.example.org", "https://.example.org", False),
        ("https://*.example.org", "https://*.example.org", False),
        ("https://*.example.org", "http://www.example.org", False),
        ("https://*.example.org", "https://www.example.org:8443", False),
        ("https://*.example.org:8443", "https://www.example.org:8443", True),
        ("*.example.org", "https://www.example.org", True),
        ("*.example.org", "http://www.example.org", True),
        ("*.example.org", "www.example.org", False),
        ("example.org", "http://example.org", True),
        ("example.org", "https://www.example.org", False),
        ("example.org:8080", "http://example.org:8080", True),
        ("http://[::1]:8080", "http://[::1]:8080", True),
        ("null", "null", True),
        ("https://example.org", "null", False),
        ("https://example.org", "", False),
        ("https://example.org", "https://example.org\n", False),
    ],
)
def test_a_pattern_allows_the_origins_it_names_and_no_others(pattern, origin, is_allowed):
    assert Origins([pattern]).allow(origin) == is_allowed


def test_without_a_list_all_may_come_and_who_sends_none_always_may():
    assert Origins().allow("https://anywhere.example")
    assert Origins(["https://example.org"]).allow(None)
    both = Origins(["https://example.org", "https://*.example.net"])
    assert both.allow("https://example.org")
    assert both.allow("https://www.example.net")


@pytest.mark.parametrize(
    "pattern",
    ["", "https://", "https://example.org/", "https://*", "*", "https://*.*.example.org", "https://a.*.org",
     "https://exämple.org", "example.org path", "https://example.org:port", "https://user@example.org"],
)
def test_what_can_be_no_origin_is_refused_when_it_is_set(pattern):
    with pytest.raises(ValueError, match="origins"):
        serve(Hub(), origins=[pattern])
