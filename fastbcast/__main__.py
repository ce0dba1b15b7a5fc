"""`python -m fastbcast` is the `fastbcast` command."""

from .cli import main

main(prog_name="fastbcast")
