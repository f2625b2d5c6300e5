"""``python -m engram`` and the command ``engram``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the exit status. Interrupted before it is there, it ends as it does when it is."""
    try:
        from engram.cli.main import main as run  # takes a moment, in which Ctrl-C may come
    except KeyboardInterrupt:
        print("engram: stopped.", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
