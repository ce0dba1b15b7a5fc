from enum import IntEnum

from typing_extensions import Buffer

class CloseCode(IntEnum):
    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014

def encode(message: str | Buffer, text: bool | None = None, max_message_bytes: int = ...) -> bytes: ...
def encode_ping(payload: Buffer = b"") -> bytes: ...
def encode_pong(payload: Buffer = b"") -> bytes: ...
def encode_close(code: int, reason: str = "") -> bytes: ...
def is_sendable_close_code(code: int) -> bool: ...
