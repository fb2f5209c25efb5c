"""`python -m nnx`: the command line, also where the script `nnx` is not on the path."""

import sys

from nnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
