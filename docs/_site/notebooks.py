"""Make the notebooks of examples/ from its scripts, with jupytext: `python docs/_site/notebooks.py`.

A script is in jupytext's light format: comments are text, and code between `# +` and `# -` is one cell.
"""

from __future__ import annotations

from pathlib import Path

import jupytext

ROOT = Path(__file__).resolve().parent.parent.parent


def notebook(script: Path) -> str:
    """Return a script as a notebook: the same one each time, so cells are numbered where jupytext draws their names."""
    made = jupytext.read(script)
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return str(jupytext.writes(made, fmt="ipynb")) + "\n"


if __name__ == "__main__":
    for path in sorted((ROOT / "examples").glob("*.py")):
        path.with_suffix(".ipynb").write_text(notebook(path), encoding="utf-8")
