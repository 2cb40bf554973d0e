"""``python -m farthing`` and the ``farthing`` command."""

from farthing.cli import main as group


def main() -> None:
    """Runs the command line and exits with its code."""
    group(prog_name="farthing")


if __name__ == "__main__":
    main()
