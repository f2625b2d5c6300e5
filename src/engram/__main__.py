"""``python -m engram`` is the command ``engram``."""

from __future__ import annotations

import sys

from engram.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
