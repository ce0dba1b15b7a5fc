"""Paths on the command line."""

from __future__ import annotations

import os
from typing import Any

import click

__all__ = ["UserPath"]


class UserPath(click.Path):
    """A path whose `~` is the home folder also where no shell has seen it: `--key=~/key.pem`, a unit of systemd."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Expand it before it is looked at."""
        return super().convert(os.path.expanduser(value), param, ctx)
