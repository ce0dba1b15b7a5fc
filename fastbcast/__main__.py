"""The `fastbcast` command, which is `python -m fastbcast` too."""

from .command.streams import ending_with_its_status, open_streams


def main() -> None:
    """Run the command, on standard streams that were opened before anything else is."""
    open_streams()
    from .command.cli import main as command

    with ending_with_its_status():
        command(prog_name="fastbcast")


if __name__ == "__main__":
    main()
