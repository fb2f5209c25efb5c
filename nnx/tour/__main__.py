"""`python -m nnx.tour [STEP]`: show the tour of the notes, one step at a time."""

from __future__ import annotations

import argparse
import sys
import textwrap
from contextlib import suppress

import nnx
from nnx.cli.errors import Failed, finish
from nnx.errors import InputError
from nnx.output import say
from nnx.tour.page import pages
from nnx.tour.show import page
from nnx.tour.terminal import Left, Terminal


def walk(terminal: Terminal, names: list[str]) -> None:
    """Show pages one after the other, with a pause after each result and each page."""
    found = pages()
    for name in names:
        if name != names[0]:
            terminal.pause()
            terminal.show(["", ""])
        for kind, above, lines in page(found[name], terminal.width):
            if kind == "python":
                terminal.show(above, code=lines)
            else:
                terminal.show(above + lines)
            if kind == "printed":
                terminal.pause()
    terminal.show(["This is the end of the tour. Its pages, with pictures, are in docs/tour."])


def chosen(step: str, known: list[str]) -> list[str]:
    """Return the pages to show: from a step to the last, or the one of that name."""
    if step not in known:
        raise InputError(f"there is no step {step!r}; expected one of {', '.join(known)}")
    return [name for name in known[known.index(step) :] if name.isdigit()] or [step]


def main(arguments: list[str] | None = None) -> int:
    """Show the tour; return the exit code: 0 done or left, 1 a block failed or the disk is full, 2 a usage error."""
    parser = argparse.ArgumentParser(
        prog="python -m nnx.tour", description="The tour of the notes, computed as you go: Enter goes on, q quits."
    )
    parser.add_argument("step", nargs="?", default="1", help="the step to begin with, or `slips`; 1 by default")
    step = parser.parse_args(arguments).step
    try:
        names = chosen(step, list(pages()))
        terminal, backend = Terminal(), nnx.get_backend().name
        compiled = "; it compiles its kernels when they are first used, which can take seconds" * (backend == "numba")
        words = f"Results are computed on the backend {backend}{compiled}."
        with suppress(Left):
            terminal.show([*textwrap.wrap(words, terminal.width), ""])
            walk(terminal, names)
        return finish(0)
    except KeyboardInterrupt:
        say("")
        return 130
    except (InputError, Failed) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    except Exception as error:  # of a block: a backend that fails, or no memory
        sys.stderr.write(f"error: this step failed: {type(error).__name__}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
