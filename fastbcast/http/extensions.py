"""permessage-deflate in the opening handshake (RFC 7692 section 7.1): what a client offers, and what it gets.

    permessage-deflate; server_max_window_bits=8, permessage-deflate; client_max_window_bits
    `----- declined: zlib cannot -----'           `-- the first that can be met: a Deflate --'

Invariants

1. A header that is no list of extensions is a fault of the handshake (RFC 6455 section 9.1). One that is a list never
   is: extensions that nobody here knows do not count, an offer that cannot be met is declined (RFC 7692 section 7.1).
2. An answer names what its offer named, with the same values, and nothing else but `client_no_context_takeover`. It
   never names `client_max_window_bits`, which is a hint: what is inflated here may use the whole window.
3. There is one Deflate for all clients that have settled on the same parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from ..deflate.parameters import Deflate
from ..header_fields import TOKEN, TOKEN_CHARACTER, split_list

__all__ = ["choose_deflate", "find_offers", "is_extension_list"]

Parameters = list[tuple[str, str | None]]
"""Names and values of an offer, as they came; None: without a value."""

# RFC 6455 section 9.1. A quoted value must be a token, too, once it is unquoted: no separator is hidden in one.
# Nothing here can be matched in two ways (blanks belong to what is left of them), so that what is wrong is soon known.
_PARAMETER = rf'({TOKEN})[ \t]*(?:=[ \t]*(?:({TOKEN})|"((?:\\?{TOKEN_CHARACTER})+)")[ \t]*)?'
_EXTENSION = rf"{TOKEN}[ \t]*(?:;[ \t]*{_PARAMETER})*"
_match_list = re.compile(rf"[ \t,]*{_EXTENSION}(?:,[ \t]*(?:{_EXTENSION})?)*").fullmatch
_find_parameters = re.compile(_PARAMETER).findall

_WINDOW_BITS = frozenset(map(str, range(8, 16)))
_VALUES: dict[str, frozenset[str | None]] = {
    "server_no_context_takeover": frozenset({None}),
    "client_no_context_takeover": frozenset({None}),
    "server_max_window_bits": _WINDOW_BITS - {"8"},  # zlib makes no raw deflate with a window of 256 bytes
    "client_max_window_bits": _WINDOW_BITS | {None},
}
"""What an offer may have (RFC 7692 sections 7.1.1 and 7.1.2), and can be met."""

_share_deflate = lru_cache(Deflate)
"""Of the 32 that there can be, one each."""


def is_extension_list(value: str) -> bool:
    """Whether a Sec-WebSocket-Extensions header is right: a list of at least one extension (RFC 6455 section 9.1)."""
    return _match_list(value) is not None


def find_offers(value: str) -> Iterator[Parameters]:
    """Give the parameters of each permessage-deflate in a header that is right, in their order."""
    for extension in split_list(value):
        name, _, parameters = extension.partition(";")
        if name.rstrip(" \t") == "permessage-deflate":
            yield [
                (key, token or quoted.replace("\\", "") or None) for key, token, quoted in _find_parameters(parameters)
            ]


def choose_deflate(value: str, *, client_no_context_takeover: bool) -> Deflate | None:
    """Return what comes of the first offer that can be met, of a header that is right; None if there is none.

    client_no_context_takeover: ask for it even if the offer does not have it (RFC 7692 section 7.1.1.2).
    """
    for parameters in find_offers(value):
        if _can_meet(parameters):
            values = dict(parameters)
            window_bits = values.get("server_max_window_bits")
            return _share_deflate(
                "server_no_context_takeover" in values,
                client_no_context_takeover or "client_no_context_takeover" in values,
                None if window_bits is None else int(window_bits),
            )
    return None


def _can_meet(parameters: Parameters) -> bool:
    is_twice = len(dict(parameters)) != len(parameters)
    return not is_twice and all(value in _VALUES.get(name, ()) for name, value in parameters)
