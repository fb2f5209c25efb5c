"""The command `nnx`, from its first moment on: nnx itself takes a third of a second to be imported.

It stands beside the package, for to import a module of a package is to import the package first.
"""

import signal
import sys


def main() -> int:
    """Run the command line that the process was given; return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a shell's background
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the import without a word; then `main` hears it
    from nnx.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
