"""Values of header fields: tokens and lists (RFC 9110 section 5.6)."""

from __future__ import annotations

import re

__all__ = ["TOKEN", "TOKEN_CHARACTER", "is_token", "split_list"]

TOKEN_CHARACTER = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TOKEN = f"{TOKEN_CHARACTER}+"
"""A token as a regular expression (section 5.6.2)."""
_is_token = re.compile(TOKEN).fullmatch


def is_token(text: str) -> bool:
    """Whether `text` may be the name of a header, a subprotocol or an extension."""
    return _is_token(text) is not None


def split_list(value: str) -> list[str]:
    """Return the elements of a list header; empty ones do not count (section 5.6.1.2)."""
    return [element for part in value.split(",") if (element := part.strip(" \t"))]
