"""Where the command starts, as `bifusion` or, as torchrun starts it, `python -m bifusion`: the command
line, and a Ctrl-C that comes before it is there."""

import sys


def main() -> None:
    """`cli.main`; Ctrl-C while that is imported ends as any later one does."""
    try:
        from bifusion.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("bifusion: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
