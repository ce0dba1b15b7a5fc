"""The token that a client command presents: `--token-file`, or the variable FASTBCAST_TOKEN.

Not an argument: everybody on a machine sees those of all processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..exceptions import BadTokenFile
from ..identity.tokens import is_token, read_lines
from .paths import UserPath

__all__ = ["token_option"]

VARIABLE = "FASTBCAST_TOKEN"


def _read_token(context: click.Context, parameter: click.Parameter, path: Path | None) -> str | None:
    try:
        if path is not None:
            return read_lines(path)[0][1]
        token = os.environ.get(VARIABLE) or None
        if token is not None and not is_token(token):
            raise BadTokenFile(f"${VARIABLE}", "it has characters that no token has")
        return token
    except BadTokenFile as error:
        click.echo(f"fastbcast: {error}", err=True)
        sys.exit(2)


token_option = click.option(
    "--token-file", "token", type=UserPath(path_type=Path), callback=_read_token,
    help=f"Present the first token of this file.  [default: what {VARIABLE} has]",
)
