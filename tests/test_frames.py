"""_frames against RFC 6455 section 5.2, drawn by hand in reference.py."""

import array

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import CloseCode

from fastbcast import MessageTooBig, _frames

BOUNDARIES = [0, 1, 125, 126, 127, 65535, 65536, 70000]


@pytest.mark.parametrize("length", BOUNDARIES)
def test_a_frame_has_the_shortest_header_for_its_length(length):
    payload = bytes(i % 251 for i in range(length))
    assert _frames.encode(payload) == reference.encode_frame(reference.BINARY, payload)
    assert _frames.encode("x" * length) == reference.encode_frame(reference.TEXT, b"x" * length)


@given(st.text(), st.binary())
def test_str_is_text_and_bytes_are_binary(text, data):
    assert _frames.encode(text) == reference.encode_frame(reference.TEXT, text.encode())
    assert _frames.encode(data) == reference.encode_frame(reference.BINARY, data)
    assert _frames.encode(text.encode(), True) == reference.encode_frame(reference.TEXT, text.encode())
    assert _frames.encode(data, False) == reference.encode_frame(reference.BINARY, data)


@pytest.mark.parametrize("message", [b"abc", bytearray(b"abc"), memoryview(b"abc"), array.array("b", b"abc")])
def test_any_contiguous_buffer_is_a_message(message):
    assert _frames.encode(message) == b"\x82\x03abc"


def test_a_buffer_of_wider_items_is_sent_as_its_bytes():
    numbers = array.array("I", [1, 2, 3])
    assert _frames.encode(numbers) == reference.encode_frame(reference.BINARY, numbers.tobytes())


@pytest.mark.parametrize(
    ("message", "text", "error"),
    [
        (None, None, TypeError),
        (42, None, TypeError),
        (["a"], None, TypeError),
        ("a", False, TypeError),
        ("lone \ud800 surrogate", None, ValueError),
        (memoryview(b"abcdef")[::2], None, ValueError),
        (b"\xff", True, ValueError),
        (b"\xed\xa0\x80", True, ValueError),
    ],
)
def test_what_cannot_be_a_message_is_refused(message, text, error):
    with pytest.raises(error):
        _frames.encode(message, text)


def test_a_refused_buffer_is_released():
    data = bytearray(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        _frames.encode(data, True)
    data.append(1)  # BufferError while somebody holds a view of it


def test_a_message_above_the_limit_says_by_how_much():
    with pytest.raises(MessageTooBig) as caught:
        _frames.encode(b"123456", None, 5)
    assert (caught.value.message_bytes, caught.value.max_message_bytes) == (6, 5)
    assert _frames.encode(b"12345", None, 5)


def test_control_frames_carry_at_most_125_bytes():
    assert _frames.encode_ping(b"x" * 125) == reference.encode_frame(reference.PING, b"x" * 125)
    assert _frames.encode_pong(b"") == reference.encode_frame(reference.PONG, b"")
    for encode in (_frames.encode_ping, _frames.encode_pong):
        with pytest.raises(ValueError, match="125"):
            encode(b"x" * 126)


def test_a_close_frame_carries_code_and_reason():
    assert _frames.encode_close(1001, "née") == reference.encode_frame(reference.CLOSE, b"\x03\xe9" + "née".encode())
    assert _frames.encode_close(1000, "r" * 123)
    with pytest.raises(ValueError, match="125"):
        _frames.encode_close(1000, "r" * 124)


SENDABLE = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


@given(st.one_of(st.integers(0, 70000), st.sampled_from([999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])))
def test_only_close_codes_that_may_cross_the_wire_are_sent(code):
    assert _frames.is_sendable_close_code(code) == (code in SENDABLE)
    if code not in SENDABLE:
        with pytest.raises(ValueError, match=str(code)):
            _frames.encode_close(code)


def test_close_codes_have_the_numbers_of_the_registry():
    assert len(_frames.CloseCode) == 14
    for code in _frames.CloseCode:
        assert code == CloseCode["NO_STATUS_RCVD" if code.name == "NO_STATUS_RECEIVED" else code.name]
