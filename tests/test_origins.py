"""The allow-list of origins: which patterns match what browsers send."""

import pytest

from fastbcast import Hub, serve
from fastbcast.http.origins import Origins


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
        # RFC 6454 section 6.2: a browser drops the scheme's own port, and zeros, and writes addresses in one way.
        ("https://example.org:443", "https://example.org", True),
        ("https://example.org:0443", "https://example.org", True),
        ("HTTPS://Example.org:443", "https://example.org", True),
        ("http://example.org:80", "http://example.org", True),
        ("http://example.org:443", "http://example.org:443", True),
        ("http://example.org:443", "http://example.org", False),
        ("https://example.org:80", "https://example.org", False),
        ("https://example.org:08443", "https://example.org:8443", True),
        ("https://*.example.org:443", "https://www.example.org", True),
        ("example.org:443", "https://example.org", True),
        ("example.org:443", "http://example.org:443", True),
        ("example.org:443", "http://example.org", False),
        ("example.org:80", "http://example.org", True),
        ("*.example.org:443", "https://www.example.org", True),
        ("app://example.org:443", "app://example.org:443", True),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]", True),
        ("http://[0::01]:80", "http://[::1]", True),
        ("http://[2001:DB8::7]", "http://[2001:db8::7]", True),
        ("http://[::ffff:192.0.2.1]", "http://[::ffff:c000:201]", True),
        ("http://192.0.2.1:80", "http://192.0.2.1", True),
        ("http://[::1]", "http://[::2]", False),
        ("http://[::1]", "http://[1:2]", False),
        ("chrome-extension://abc", "chrome-extension://abc", True),
        ("NULL", "null", True),
        ("null", "http://null", False),
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
    ("pattern", "advice"),
    [
        ("*", "without any origin all may connect"),
        ("https://example.org/", "without a path or a slash at the end"),
        ("https://example.org/chat", "without a path or a slash at the end"),
        ("https://example.org.", "without a dot at the end"),
        ("https://exämple.org", "xn--"),
        (" https://example.org", "without blanks"),
        ("https://a.example,https://b.example", "one origin"),
        ("file:///home", "null"),
        ("wss://example.org", "https, and not wss"),
        ("ws://example.org:8080", "http, and not ws"),
        ("https://example.org:65536", "https://example.org"),
        ("https://example.org:0", "https://example.org"),
        ("https://example.org:", "https://example.org"),
        ("http://[1:2]", "https://example.org"),
        ("http://127.1", "https://example.org"),
        ("http://0x7f000001", "https://example.org"),
        ("http://127.0.0.01", "https://example.org"),
        ("http://*.192.0.2.1", "https://example.org"),
        ("http://*.2.1", "https://example.org"),
        ("http://*.[::1]", "https://example.org"),
    ],
)
def test_a_spelling_that_no_browser_sends_is_refused_and_the_right_one_told(pattern, advice):
    with pytest.raises(ValueError, match="origins") as caught:
        serve(Hub(), origins=[pattern])
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    ["", "https://", "https://example.org/", "https://*", "*", "https://*.*.example.org", "https://a.*.org",
     "https://exämple.org", "example.org path", "https://example.org:port", "https://user@example.org"],
)
def test_what_can_be_no_origin_is_refused_when_it_is_set(pattern):
    with pytest.raises(ValueError, match="origins"):
        serve(Hub(), origins=[pattern])
