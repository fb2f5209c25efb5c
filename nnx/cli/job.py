"""The job of `nnx train`: data, network, training, test; or resuming the training of a network in a file."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nnx
from nnx import distributed
from nnx.cli import metadata
from nnx.cli.checkpointer import Checkpointer, curves
from nnx.cli.console import Report, explain, seconds
from nnx.cli.errors import Failed, note, writing
from nnx.cli.importance import importance
from nnx.cli.recipe import Recipe, changes, choose, continued, read
from nnx.cli.result import Result
from nnx.cli.search import searched
from nnx.cli.sets import Problem, Source
from nnx.cli.several import alone, fit_all
from nnx.cli.stopping import Best, best
from nnx.errors import BackendFallbackWarning, InputError

LATE = 0.9  # if the best epoch comes after this share of all epochs, more epochs might give a better one
KEY = "training"  # the key, in a saved model's metadata, of the recipe and the data that it is for


@dataclass(frozen=True)
class Job:
    """One call of `nnx train`.

    Attributes:
        source, backend, save, plot: as on the command line. given: the parts of the recipe that were given.
        report: the output. line: the command line, which is shown after Ctrl-C.
        deterministic: whether the result must not depend on the number of processes; a resumed file has its own value.
        seeds: the number of networks; several are an ensemble. search: whether to search for a recipe first.
    """

    source: Source
    given: Mapping[str, Any]
    backend: str | None
    save: Path | None
    plot: Path | None
    report: Report
    line: list[str]
    deterministic: bool = False
    seeds: int = 1
    search: bool = False

    def run(self, resume: bool) -> None:
        """Do all the work: load, build or resume, train, test, report."""
        kept = self._reopened() if resume else None
        problem = (replace(self.source, seed=kept[1].seed) if kept else self.source).load()
        if kept is not None:
            model, recipe = kept
            self._check_same_data(model, problem)
        else:
            recipe = choose(problem, self.given)
            if self.search:
                with _no_fallback_warning():
                    recipe = searched(problem, recipe, self.given, self.backend, self.report, self.deterministic)
            model = self._built(problem, recipe)
        self._note(model, recipe)
        if recipe.patience:
            problem = problem.with_validation(recipe.seed)
        self._introduce(model, problem, recipe)
        if self.seeds > 1:
            self._conclude(self._train_several(model, problem, recipe), problem, recipe, self.save)
            return
        trained = self._train(model, problem, recipe)
        self._conclude(model, problem, recipe, self.save if trained else None)

    def _built(self, problem: Problem, recipe: Recipe) -> nnx.Sequential:
        """Return an untrained network, with the metadata for its file."""
        with _no_fallback_warning():
            model = recipe.build(problem, self.backend)
        model.metadata[metadata.KEY] = problem.metadata.to_json()
        if self.save is not None:
            about = {"data": str(problem), "fingerprint": problem.fingerprint(), "version": nnx.__version__}
            model.metadata[KEY] = about
        return model

    def _note(self, model: nnx.Sequential, recipe: Recipe) -> None:
        """Put the recipe into a network's metadata, for its file."""
        if self.save is not None:
            model.metadata[KEY]["recipe"] = recipe.to_json()
            if self.deterministic:
                model.metadata[KEY]["deterministic"] = True

    # ---- resuming ----------------------------------------------------------------------------------------------------

    def _reopened(self) -> tuple[nnx.Sequential, Recipe] | None:
        """Return the network in the file and its recipe, with the number of epochs now wanted; None without a file."""
        if self.save is None or not self.save.exists():
            self.report.line("resume", f"there is no {self.save} yet: starting anew")
            return None
        with _no_fallback_warning():
            model = nnx.load(self.save, backend=self.backend)
        if isinstance(model, nnx.Ensemble):
            raise InputError(
                f"--resume: {self.save} holds an ensemble of {len(model)} networks, which is trained in one go; say "
                "--overwrite instead of --resume, with --seeds, to start anew"
            )
        if KEY not in model.metadata:
            raise InputError(f"--resume: {self.save} does not come from nnx train; use nnx.load() and fit() in Python")
        try:
            recipe = read(model.metadata[KEY])
            curves(model.metadata)
            best(model)
        except InputError as error:
            raise InputError(f"--resume: {self.save}: {error}") from error
        if different := changes(recipe, self.given):
            raise InputError(
                f"--resume: {self.save} was trained otherwise: {'; '.join(different)}. Leave that out to go on as "
                "there, or say --overwrite instead of --resume to start anew"
            )
        return model, continued(recipe, self.given)

    def _check_same_data(self, model: nnx.Sequential, problem: Problem) -> None:
        known = model.metadata[KEY]
        if known.get("fingerprint") != problem.fingerprint():
            same = known.get("data") == str(problem)
            then = known.get("version", "an earlier version")
            why = f"was made by nnx {then}, which may have prepared the table otherwise than {nnx.__version__} does"
            raise InputError(
                f"--resume: {self.save} was trained on {known.get('data')}, not on {'this ' if same else ''}{problem}"
                + ("; its numbers differ" if same else "")
                + (f" (the file {why})" if same and then != nnx.__version__ else "")
                + ". Give the data that it was trained on, or say --overwrite instead of --resume to start anew"
            )

    # ---- training ----------------------------------------------------------------------------------------------------

    def _train(self, model: nnx.Sequential, problem: Problem, recipe: Recipe) -> bool:
        """Train for the remaining epochs; return whether there were any."""
        left = recipe.epochs - model.epochs_done
        known = best(model) if recipe.patience else None
        if left <= 0:
            done = f"{self.save} has {model.epochs_done} epochs already: nothing to do; --epochs asks for more"
            self.report.line("resume", done)
            return False
        if known is not None and model.epochs_done - known["epoch"] >= recipe.patience:
            done = (
                f"{self.save} has {model.epochs_done} epochs already, and none after epoch {known['epoch']} was better"
            )
            self.report.line("resume", f"{done}: nothing to do; --epochs or a larger --patience asks for more")
            return False
        if model.epochs_done:
            from_best = f"; the best so far is {known['epoch']}" if known is not None else ""
            self.report.line("resume", f"going on after epoch {model.epochs_done}{from_best}")
        self.report.gap()
        checkpointer = Checkpointer(
            self.save, recipe.steps(problem), Best(recipe.patience) if recipe.patience else None
        )  # fmt: skip
        x, y = problem.training
        history = model.fit(
            x, y, epochs=left, batch_size=recipe.batch_size or None,
            validation_data=problem.validation or (problem.x_test, problem.y_test), callbacks=[checkpointer],
            verbose=0 if self.report.quiet else "auto", deterministic=self._is_deterministic(model),
        )  # fmt: skip
        self.report.gap()
        if history.interrupted:
            epoch = f"epoch {model.epochs_done + 1} of {recipe.epochs}"
            raise Failed(f"interrupted in {epoch}; {self._how_to_go_on(checkpointer)}")
        self.report.line(
            "speed", f"{seconds(history.seconds)} in training steps, {history.samples_per_second:,.0f} samples a second"
        )
        if (known := best(model)) is not None:
            self.report.line("kept", f"epoch {known['epoch']}, the best of {model.epochs_done}")
            if (
                "epochs" not in self.given
                and model.epochs_done == recipe.epochs
                and known["epoch"] > LATE * recipe.epochs
            ):
                go_on = " --resume goes on" if self.save is not None else " trains longer"
                self.report.line("note", f"it was still getting better: --epochs {2 * recipe.epochs}{go_on}")
        if model.eager_reason is not None:
            self.report.line("note", f"steps were not replayed: {model.eager_reason}")
        if model.replay_reason is not None:
            self.report.line("note", f"steps were replayed one operation at a time: {model.replay_reason}")
        return True

    def _train_several(self, first: nnx.Sequential, problem: Problem, recipe: Recipe) -> nnx.Ensemble:
        """Train the first network and others with different seeds; save them, and report how much they vary."""
        models = [first]
        for seed in range(recipe.seed + 1, recipe.seed + self.seeds):
            other = replace(recipe, seed=seed)
            models.append(self._built(problem, other))
            self._note(models[-1], other)
        self.report.line("networks", f"{self.seeds}, seeds {recipe.seed} to {recipe.seed + self.seeds - 1}")
        self.report.gap()
        fit_all(models, [recipe] * self.seeds, problem, self.report, self.deterministic)
        self.report.gap()
        ensemble = nnx.Ensemble(models)
        if self.save is not None:
            with writing(self.save):
                ensemble.save(self.save)
        if distributed.current().leads:
            self.report.line("alone", *alone(models, problem), always=True)
        return ensemble

    def _is_deterministic(self, model: nnx.Sequential) -> bool:
        kept = model.metadata.get(KEY)
        return self.deterministic or (isinstance(kept, dict) and kept.get("deterministic") is True)

    def _how_to_go_on(self, checkpointer: Checkpointer) -> str:
        if self.save is None:
            return "nothing was kept; with --save FILE a training can go on later"
        if checkpointer.saved_epoch is None:
            return f"that was too early to save anything{': the file is as it was' if self.save.exists() else ''}"
        line = [word for word in self.line if word not in ("--resume", "--overwrite")]
        command = shlex.join([*line, "--resume"])
        return f"{self.save} holds the network as of epoch {checkpointer.saved_epoch}. Go on with: nnx {command}"

    # ---- reporting ---------------------------------------------------------------------------------------------------

    def _introduce(self, model: nnx.Sequential, problem: Problem, recipe: Recipe) -> None:
        apart = f", {len(problem.validation[0]):,} apart to choose the epoch by" if problem.validation else ""
        samples = f"{problem.rows:,} to learn from{apart}, {len(problem.x_test):,} for the test"
        self.report.line("data", f"{problem.name}: {problem.title}", samples)
        if problem.told is not None:
            for label, *texts in problem.told.brief():
                self.report.line(label, *texts)
            if doubt := problem.told.doubt():
                note(doubt)
        self.report.line("backend", *explain(model.resolution, self.report.verbose))
        parameters = sum(a.size for a in model.parameters().values())
        self.report.line("network", f"{recipe.network(problem)}: {parameters:,} parameters")
        self.report.line("training", *filter(None, (recipe.training(problem), recipe.ending())))
        comm = distributed.current()
        if comm.size > 1:
            self.report.line("together", f"{comm.size} processes, by {comm.description}")

    def _conclude(
        self, model: nnx.Sequential | nnx.Ensemble, problem: Problem, recipe: Recipe, saved: Path | None
    ) -> None:
        if not distributed.current().leads:
            return
        result = Result.of(model, problem)
        some = "" if problem.source is None else "some of "
        self.report.line("test", *result.test, f"on {some}the samples it learned from: {result.train}", always=True)
        self.report.line("mistakes", *result.mistakes)
        quiet_and_undrawn = self.report.quiet and self.plot is None
        worth = None if quiet_and_undrawn else importance(model, problem, recipe.seed)
        if worth is not None:
            self.report.line("mattered", *worth.words())
        written = [str(saved)] if saved is not None else []
        if self.plot is not None:
            from nnx.cli.picture import draw

            first = metadata.networks(model)[0]
            known, done = best(first), f"{first.epochs_done:,} epoch{'s' if first.epochs_done > 1 else ''}"
            epochs = f"after {done}" if known is None else f"epoch {known['epoch']:,} of {first.epochs_done:,}"
            each = "" if first is model else f"an ensemble of {self.seeds}: the first one's curves, "
            subtitle = f"{recipe.network(problem)}, {each}{epochs} on the {first.backend.name} backend"
            with writing(self.plot):
                draw(self.plot, model, problem, result, worth, subtitle)
            written.append(str(self.plot))
        if written:
            self.report.line("wrote", ", ".join(written))
        self.report.line("next", self._next(problem))

    def _next(self, problem: Problem) -> str:
        stem = shlex.quote(Path(problem.name).stem)
        if self.save is None:
            also = "" if self.plot is not None else f", --plot {stem}.png draws it"
            return f"--save {stem}.safetensors keeps the network{also}"
        what = "with the same columns" if problem.told else f"csv or npz, {problem.x.shape[1]} numbers a row"
        return f"nnx predict {shlex.quote(str(self.save))} FILE   ({what})"


class _no_fallback_warning(warnings.catch_warnings):
    """Silences the warning about the backend, since the report says already which one is used and why."""

    def __enter__(self) -> Any:
        log = super().__enter__()
        warnings.simplefilter("ignore", BackendFallbackWarning)
        return log
