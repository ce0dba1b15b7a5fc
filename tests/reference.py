"""Slow and obvious: what the compiled core must agree with."""

import os
import struct
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
