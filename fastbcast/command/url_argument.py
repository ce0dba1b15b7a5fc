"""The argument URL of the commands."""

from __future__ import annotations

import click

__all__ = ["require_text", "url_argument"]


def require_text(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A click callback: Python keeps bytes of an argument that are not UTF-8 as lone surrogates (PEP 383)."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text") from None
    return value


url_argument = click.argument("url", callback=require_text)
