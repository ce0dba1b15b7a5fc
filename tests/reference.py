"""Slow and obvious: what the compiled core must agree with."""

import contextlib
import itertools
import os
import struct
import zlib
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def encode_frame(opcode, payload, *, fin=True, rsv=0, mask=None):
    """One frame as RFC 6455 section 5.2 draws it; `mask` (4 bytes) makes it a client's."""
    frame = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask is not None else 0
    if len(payload) < 126:
        frame += struct.pack("!B", masked | len(payload))
    elif len(payload) < 65536:
        frame += struct.pack("!BH", masked | 126, len(payload))
    else:
        frame += struct.pack("!BQ", masked | 127, len(payload))
    if mask is None:
        return frame + payload
    return frame + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def client_frame(opcode, payload, **options):
    return encode_frame(opcode, payload, mask=os.urandom(4), **options)


def close_payload(code, reason=""):
    return code.to_bytes(2, "big") + reason.encode()


def parse_frames(data):
    """Return (whole frames, what is left) of a server's byte stream; ValueError for what no server may send."""
    frames = []
    while len(data) >= 2:
        length, start = data[1], 2
        if length & 0x80:
            raise ValueError("a server's frame is masked")
        if length == 126:
            if len(data) < 4:
                break
            length, start = int.from_bytes(data[2:4], "big"), 4
            if length < 126:
                raise ValueError("length not in its shortest form")
        elif length == 127:
            if len(data) < 10:
                break
            length, start = int.from_bytes(data[2:10], "big"), 10
            if length < 65536:
                raise ValueError("length not in its shortest form")
        if data[0] & 0x0F not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise ValueError(f"opcode {data[0] & 0x0F}: not at a frame boundary?")
        if len(data) < start + length:
            break
        payload = bytes(data[start : start + length])
        frames.append(Frame(data[0] & 0x0F, payload, bool(data[0] & 0x80), data[0] >> 4 & 7))
        data = data[start + length :]
    return frames, bytes(data)


class Inflater:
    """The messages of one client (RFC 7692 section 7.2.2), by Python's zlib."""

    TAIL = b"\x00\x00\xff\xff"
    LAST_BLOCK = b"\x01\x00\x00\xff\xff"      # an empty one

    def __init__(self, keeps_window):
        self.keeps_window = keeps_window
        self.stream = zlib.decompressobj(wbits=-15)

    def inflate(self, payload, max_bytes):
        """The message, or the code of the CLOSE."""
        if not payload:
            return b""
        if not self.keeps_window:
            self.stream = zlib.decompressobj(wbits=-15)
        try:
            message, has_ended = self.feed(payload, max_bytes)
            if len(message) <= max_bytes and not has_ended:
                more, has_ended = self.feed(self.TAIL, max_bytes - len(message))
                message += more
                if len(message) <= max_bytes and (more or not (has_ended or self.is_between_blocks())):
                    return 1007
        except zlib.error:
            return 1007
        return message if len(message) <= max_bytes else 1009

    def feed(self, data, max_bytes):
        """What comes of `data`, at most `max_bytes` + 1, and whether it ended with the last block of a stream."""
        made = b""
        while True:
            made += self.stream.decompress(data, max_bytes + 1 - len(made))
            if len(made) > max_bytes or not self.stream.eof:
                return made, False
            data = self.stream.unused_data
            self.stream = zlib.decompressobj(wbits=-15)
            if not data:
                return made, True

    def is_between_blocks(self):
        """Whether one more block, the last, ends the stream."""
        stream = self.stream.copy()
        try:
            return stream.decompress(self.LAST_BLOCK) == b"" and stream.eof and not stream.unused_data
        except zlib.error:
            return False


class Parser:
    """A client's byte stream to events, kept whole and read again from its beginning for every question."""

    def __init__(self, max_message_bytes, max_fragments, keeps_window=None):
        self.max_message_bytes = max_message_bytes
        self.max_fragments = max_fragments
        self.keeps_window = keeps_window    # of permessage-deflate; None: it was not negotiated
        self.data = b""
        self.event_count = 0

    def parse(self, data):
        """What `data` adds to the events so far."""
        self.data += data
        events = self.all_events()
        new, self.event_count = events[self.event_count :], len(events)
        return new

    def all_events(self):
        events = []
        message_opcode, message, fragments = 0, b"", 0
        inflater = None if self.keeps_window is None else Inflater(self.keeps_window)
        is_compressed = False
        data = self.data
        while len(data) >= 2:
            fin, rsv, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
            masked, length = data[1] >> 7, data[1] & 127
            is_control = opcode >= 8
            if (
                rsv not in ((0,) if inflater is None or opcode not in (TEXT, BINARY) else (0, 4))
                or not masked or opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
                or (is_control and (not fin or length > 125))
                or (opcode == 0 and not message_opcode)
                or (opcode in (TEXT, BINARY) and message_opcode)
            ):
                return [*events, ("failed", 1002)]
            if opcode == 0 and fragments == self.max_fragments:
                return [*events, ("failed", 1008)]
            size = {126: 2, 127: 8}.get(length, 0)
            if len(data) < 2 + size + 4:
                break
            if size:
                length = int.from_bytes(data[2 : 2 + size], "big")
                if length < (126 if size == 2 else 65536) or length >= 2**63:
                    return [*events, ("failed", 1002)]
            if not is_control and len(message) + length > self.max_message_bytes:
                return [*events, ("failed", 1009)]
            mask, rest = data[2 + size : 6 + size], data[6 + size :]
            payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(rest[:length]))
            is_whole = len(rest) >= length
            if is_control:
                if not is_whole:
                    break
                if opcode == CLOSE:
                    return [*events, self.close_event(payload)]
                events.append(("ping" if opcode == PING else "pong", payload))
            else:
                if opcode:
                    message_opcode, fragments, is_compressed = opcode, 0, rsv == 4
                fragments += 1
                message += payload
                is_last = bool(fin) and is_whole
                if is_compressed and is_last:
                    message = inflater.inflate(message, self.max_message_bytes)
                    if isinstance(message, int):
                        return [*events, ("failed", message)]
                    is_compressed = False
                if not is_compressed and message_opcode == TEXT and not is_utf8(message, is_last):
                    return [*events, ("failed", 1007)]
                if not is_whole:
                    break
                if is_last:
                    events.append(("message", message.decode() if message_opcode == TEXT else message))
                    message_opcode, message = 0, b""
            data = rest[length:]
        return events

    @staticmethod
    def close_event(payload):
        if not payload:
            return ("close", 1005, "")
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (
            code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code <= 4999
        ):
            return ("failed", 1002)
        if not is_utf8(payload[2:], True):
            return ("failed", 1007)
        return ("close", code, payload[2:].decode())


ENDINGS = [bytes(ending) for length in range(4) for ending in itertools.product((0x80, 0xBF), repeat=length)]


def is_utf8(data, is_last):
    """Whether `data` is text, or, unless it is the last of it, becomes text with one of the endings there are."""
    for ending in [b""] if is_last else ENDINGS:
        with contextlib.suppress(UnicodeDecodeError):
            (data + ending).decode()
            return True
    return False


def key_bytes(key):
    if isinstance(key, int):
        return 1 + key.bit_length() // 8
    # PEP 393: as many bytes a character as the largest needs.
    width = 1 if isinstance(key, bytes) or max(key, default="") < "\u0100" else 2 if max(key) < "\U00010000" else 4
    return width * len(key)


class CompactLog:
    """A list of (seq, key, frame), and a walk through all of it for every question."""

    def __init__(self, max_keys, max_snapshot_bytes):
        self.max_keys = max_keys
        self.max_snapshot_bytes = max_snapshot_bytes
        self.entries = []

    def keyed_bytes(self, entries=None):
        entries = self.entries if entries is None else entries
        return sum(len(frame) + 96 + key_bytes(key) for _, key, frame in entries if key is not None)

    def keyless_bytes(self):
        return sum(len(frame) + 96 for _, key, frame in self.entries if key is None)

    def keys(self):
        return [key for _, key, _ in self.entries if key is not None]

    def put(self, seq, key, frame):
        """Return whether there was room for it."""
        entries = [entry for entry in self.entries if key is None or entry[1] != key] + [(seq, key, frame)]
        if key is not None and (
            len([entry for entry in entries if entry[1] is not None]) > self.max_keys
            or self.keyed_bytes(entries) > self.max_snapshot_bytes
        ):
            return False
        self.entries = entries
        return True

    def forget(self, key):
        had_it = key in self.keys()
        self.entries = [entry for entry in self.entries if entry[1] != key]
        return had_it

    def drop(self, before_seq, kept_bytes):
        for entry in list(self.entries):
            if entry[1] is None and entry[0] < before_seq and self.keyless_bytes() > kept_bytes:
                self.entries.remove(entry)

    def read(self, seq):
        return [(entry[0], entry[2]) for entry in self.entries if entry[0] >= seq]


class Log:
    """A lane as a list of (seq, bytes), and an offset."""

    def __init__(self):
        self.frames = []
        self.next_seq = 1
        self.head = 0

    @property
    def tail(self):
        return self.head + sum(len(frame) for frame in self.frames)

    def append(self, frame):
        self.frames.append(frame)
        self.next_seq += 1
        return self.next_seq - 1

    def ends(self):
        end, ends = self.head, []
        for frame in self.frames:
            end += len(frame)
            ends.append(end)
        return ends

    def read(self, start):
        return b"".join(self.frames)[start - self.head :]

    def trim(self, offset):
        while self.frames and self.head + len(self.frames[0]) <= offset:
            self.head += len(self.frames.pop(0))

    def frame_end(self, offset):
        return next(end for end in self.ends() if end > offset)


class Message(NamedTuple):
    seq: int
    payload: bytes
    frame_bytes: int
    key: str | bytes | int | None
    subscribers: int        # when it was published


class Channel:
    """All that was ever published to a channel, and what its policy lets a subscriber miss of it."""

    ENTRY_BYTES = 96        # what a message that is kept for its key, or without one, costs beside its frame

    def __init__(self, policy, *, max_lag_bytes, soft_lag_bytes, max_keys, max_snapshot_bytes):
        self.policy = policy
        self.max_lag_bytes = max_lag_bytes
        self.least_limit = min(max_lag_bytes, soft_lag_bytes)
        self.max_keys = max_keys
        self.max_snapshot_bytes = max_snapshot_bytes
        self.messages = []
        self.newest = {}        # key -> its newest message, if the channel conflates
        self.forgotten = {}     # key -> seq of the last message of it that was forgotten

    def with_newest(self, message):
        keeps = self.policy == "conflate" and message.key is not None
        return self.newest | ({message.key: message} if keeps else {})

    def kept_bytes(self, newest=None):
        """What the newest message of every key takes."""
        return sum(
            message.frame_bytes + self.ENTRY_BYTES + key_bytes(key)
            for key, message in (self.newest if newest is None else newest).items()
        )

    def admits(self, message):
        newest = self.with_newest(message)
        return len(newest) <= self.max_keys and self.kept_bytes(newest) <= self.max_snapshot_bytes

    def publish(self, message):
        self.messages.append(message)
        self.newest = self.with_newest(message)

    def forget(self, key):
        message = self.newest.pop(key, None)
        if message is not None:
            self.forgotten[key] = message.seq
        return message is not None

    def bytes_from(self, seq):
        return sum(message.frame_bytes for message in self.messages[seq - 1 :])

    def check_gap(self, first, last):
        """May a subscriber have been passed over messages `first` to `last`, as things are now?"""
        gap = self.messages[first - 1 : last]
        if not gap:
            return
        assert self.policy != "evict", "a gap"
        if self.policy in ("skip", "latest"):
            assert last < len(self.messages), "the newest message was skipped"
            within = last if self.policy == "skip" else first
            assert self.bytes_from(within) > self.least_limit, "it was within its limits"
            return
        for message in gap:
            later = self.messages[message.seq :]
            if message.key is None:
                later = [message, *(other for other in later if other.key is None)]
                assert sum(other.frame_bytes + self.ENTRY_BYTES for other in later) > self.max_lag_bytes
            elif self.forgotten.get(message.key, 0) < message.seq:
                assert any(other.key == message.key for other in later), "superseded by nothing"


class Subscriber:
    """What one client received of a channel, over all the times that it was subscribed."""

    def __init__(self, channel):
        self.channel = channel
        self.spans = []         # [seq of the first message, seq after the last one or None]
        self.received = []      # seqs

    @property
    def is_active(self):
        return bool(self.spans) and self.spans[-1][1] is None

    @property
    def published(self):
        """How many messages, since it has subscribed."""
        return len(self.channel.messages) + 1 - self.spans[-1][0]

    def count_received(self, span=-1):
        """How many of the messages of a span it has."""
        first, after = self.spans[span]
        return sum(first <= seq and (after is None or seq < after) for seq in self.received)

    def join(self):
        self.spans.append([len(self.channel.messages) + 1, None])

    def leave(self):
        self.spans[-1][1] = len(self.channel.messages) + 1

    def receive(self, seq, payload):
        assert payload == self.channel.messages[seq - 1].payload
        last = self.received[-1] if self.received else 0
        assert last < seq, "twice, or out of order"
        firsts = [first for first, after in self.spans if first <= seq and (after is None or seq < after)]
        assert firsts, "published while it was not subscribed"
        self.channel.check_gap(max(last + 1, firsts[0]), seq - 1)
        self.received.append(seq)

    def missed(self):
        """What it has not received and will not, if nothing waits for it: (skipped, conflated)."""
        first = self.spans[-1][0]
        received = set(self.received)
        missed = [message for message in self.channel.messages[first - 1 :] if message.seq not in received]
        self.channel.check_gap(max([first, *(seq + 1 for seq in received)]), len(self.channel.messages))
        if self.channel.policy != "conflate":
            return len(missed), 0
        keyed = [message for message in missed if message.key is not None]
        for message in keyed:
            later = (other.seq for other in self.channel.messages[message.seq :] if other.key == message.key)
            is_forgotten = self.channel.forgotten.get(message.key, 0) >= message.seq
            assert is_forgotten or received.intersection(later), "superseded by what it did not get"
        return len(missed) - len(keyed), len(keyed)


HEX = set("0123456789abcdefABCDEF")
UNRESERVED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
SUB_DELIMS = set("!$&'()*+,;=")


def is_host(text):
    """Whether a Host header may say `text`: RFC 3986 section 3.2.2 and 3.2.3, read from left to right."""
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or not is_ip_literal(literal):
            return False
    else:
        name, colon, rest = text.partition(":")
        rest = colon + rest
        while name:
            if name[0] == "%" and len(name) > 2 and set(name[1:3]) <= HEX:
                name = name[3:]
            elif name[0] in UNRESERVED | SUB_DELIMS:
                name = name[1:]
            else:
                return False
    if not rest:
        return True
    port = rest[1:]
    return rest[0] == ":" and set(port) <= set("0123456789") and len(port) <= 16 and int(port or "0") < 2**16


def is_ip_literal(text):
    """An IPv6 address, perhaps with a zone behind a percent sign, or an address of the future."""
    if text[:1] in ("v", "V"):
        version, dot, rest = text[1:].partition(".")
        return bool(version and dot and rest) and set(version) <= HEX and set(rest) <= UNRESERVED | SUB_DELIMS | {":"}
    address, percent, zone = text.partition("%")
    if percent and not (zone and set(zone) <= UNRESERVED | {"%"}):
        return False
    left, double, right = address.partition("::")
    groups = [group for half in (left, right) if half for group in half.split(":")]
    if double and "::" in right:
        return False
    count = len(groups)
    if groups and "." in groups[-1] and not address.endswith("::"):
        parts = groups.pop().split(".")
        if len(parts) != 4 or not all(part in map(str, range(256)) for part in parts):
            return False
        count += 1
    return all(1 <= len(group) <= 4 and set(group) <= HEX for group in groups) and (count < 8 if double else count == 8)
