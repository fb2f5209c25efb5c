"""`nnx train`: the command's options; job.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnx import distributed
from nnx.cli import job, outputs
from nnx.cli.console import Report
from nnx.cli.recipe import OPTIMIZERS, check_given, check_seeds, parse_layers
from nnx.cli.search import TRIED, check_search
from nnx.cli.sets import Source
from nnx.errors import InputError
from nnx.layers import ELEMENTWISE

LABEL = "A table's column of labels: its name, or its position (1: the first, -1: the last)."
DROP = "Columns not to be used, by name or position, with commas between."
KEEP = "Columns to be used though they look like ids or free text."
CATEGORICAL = "Columns of numbers that are names."
NETWORK, TRAINING, DATA, OUTPUT = "The network", "The training", "The data", "What comes out"


def train(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="spiral, digits, mnist, fashion-mnist, a table, or a folder of shards."),
    ],
    layers: Annotated[
        str | None, typer.Option(help='Neurons of the hidden layers, as 64,32; or "none".', rich_help_panel=NETWORK)
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help=f"Of the hidden layers: {', '.join(ELEMENTWISE)}.", rich_help_panel=NETWORK)
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share dropped after each hidden layer.", rich_help_panel=NETWORK)
    ] = None,
    l2: Annotated[float | None, typer.Option(help="Penalty on squared weights.", rich_help_panel=NETWORK)] = None,
    epochs: Annotated[int | None, typer.Option(help="How many, in all.", rich_help_panel=TRAINING)] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better loss on a fifth of the training part, and keep the best; "
            "0: learn from all of it, to the last epoch.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples in a step; 0: all of them.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = None,
    decay: Annotated[
        float | None, typer.Option(help="Step t has the rate lr / (1 + decay * t).", rich_help_panel=TRAINING)
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help=f"{', '.join(OPTIMIZERS)}; sgd has a momentum of 0.9.", rich_help_panel=TRAINING)
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option(help="The longest that all gradients together may be; 0: no limit.", rich_help_panel=TRAINING),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of all that is random, held-out rows too.", rich_help_panel=TRAINING)
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="How many networks to train at once, with the seeds from --seed on: an ensemble, which answers by "
            "the mean of what they say.",
            rich_help_panel=TRAINING,
        ),
    ] = 1,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help=f"Try other networks first, and train the one with the best loss on a fifth of the training part: "
            f"{TRIED} What is given is not varied.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same result, bit for bit, whatever the number of processes under mpiexec.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option(
            help="numpy, numba, cupy; a list of them; or auto. Default: NNX_BACKEND, or auto.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the four files of MNIST or Fashion-MNIST.", rich_help_panel=DATA),
    ] = None,
    label: Annotated[str | None, typer.Option(help=LABEL, rich_help_panel=DATA)] = None,
    drop: Annotated[list[str] | None, typer.Option(help=DROP, rich_help_panel=DATA)] = None,
    keep: Annotated[list[str] | None, typer.Option(help=KEEP, rich_help_panel=DATA)] = None,
    categorical: Annotated[list[str] | None, typer.Option(help=CATEGORICAL, rich_help_panel=DATA)] = None,
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="Whether a CSV file's first line holds names.", rich_help_panel=DATA),
    ] = None,
    task: Annotated[
        str, typer.Option(help="Of a file: auto, classification, regression.", rich_help_panel=DATA)
    ] = "auto",
    save: Annotated[
        Path | None, typer.Option(help="Keep the network in this file, while it trains too.", rich_help_panel=OUTPUT)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the network in --save's file.", rich_help_panel=OUTPUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and replace --save's file.", rich_help_panel=OUTPUT)
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the training and its result here.", rich_help_panel=OUTPUT)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say also what is said once a day.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result alone.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Train a network, and test it on samples that it never saw.

    What is not given is chosen to suit the data. A table's labels are its column "label", "class", "target" or "y", or
    the last one; a fifth of its rows is held out for the test, and a fifth of the others tells when to stop, unless
    --epochs says it. "nnx data FILE" says what is understood of a table.
    """
    comm = distributed.init()  # first, since the other processes wait there for this one, even if it fails later
    given = check_given(
        {
            "layers": None if layers is None else parse_layers(layers), "activation": activation, "dropout": dropout,
            "l2": l2, "optimizer": optimizer, "lr": lr, "decay": decay, "batch_size": batch_size, "seed": seed,
            "epochs": epochs, "patience": patience, "clip_norm": clip_norm,
        }
    )  # fmt: skip
    check_seeds(seeds, given.get("seed", 0))
    if search:
        check_search(given)
    if resume and (seeds > 1 or search):
        raise InputError(
            f"--resume goes on with one network as it was, {'--seeds' if seeds > 1 else '--search'} begins anew: say "
            "one of the two"
        )
    if resume and save is None:
        raise InputError("--resume: from which file? Name it: --save FILE")
    outputs.check("--save", save, (Path(data),), needs=("safetensors", "train"))
    outputs.check_model("--save", save)
    if resume and overwrite:
        raise InputError("--resume goes on with a file, --overwrite begins anew: say one of the two")
    if save is not None and save.exists() and not (resume or overwrite):
        raise InputError(
            f"--save {save}: there is such a file; go on with it by --resume, or replace it by --overwrite"
        )
    outputs.check("--plot", plot, (Path(data),), needs=("matplotlib", "plots"))
    outputs.check_picture("--plot", plot)
    if save is not None and plot is not None and save.absolute() == plot.absolute():
        raise InputError(f"--save and --plot are both {save}; give them different names")
    source = Source(
        data,
        given.get("seed", 0),
        folder,
        label,
        header,
        task,
        *map(tuple, (drop or (), keep or (), categorical or ())),
    )
    report = Report(quiet, verbose, silent=not comm.leads)
    with report.compiling():
        line = list(ctx.obj or ())
        job.Job(source, given, backend, save, plot, report, line, deterministic, seeds, search).run(resume)
