"""The command: `copse`, or `python -m copse`."""

from __future__ import annotations

import sys

from search.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
