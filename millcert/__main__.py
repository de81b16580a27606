"""`python -m millcert`, and the entry point of the installed command."""

import sys

from millcert.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
