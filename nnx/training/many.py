"""Training of many networks at once: each by its own fit, as many side by side as there are threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread, get_ident
from typing import Any

from nnx.arguments import explained
from nnx.backends.base import on_its_device
from nnx.backends.threads import busy, get_threads
from nnx.callbacks import Callback
from nnx.data.arrays import are_arrays
from nnx.distributed import current
from nnx.errors import InputError, InputTypeError
from nnx.history import History
from nnx.owner import alone
from nnx.training.beside import Beside
from nnx.training.interrupt import Interrupt
from nnx.training.progress import Progress, make
from nnx.training.trainable import Trainable

LOOK = 0.1  # seconds between two updates of the shown progress


@explained
def fit_many(
    models: Sequence[Trainable], x: Any, y: Any = None, epochs: int = 1, batch_size: int | None = None,
    validation_data: Any = None, shuffle: bool = True, callbacks: Sequence[Sequence[Callback]] = (),
    verbose: Any = "auto", validation_split: float = 0.0, sample_weight: Any = None, class_weight: Any = None,
    accumulate: int = 1, label: str | None = None, deterministic: bool | int = False,
) -> list[History]:  # fmt: skip
    """Train each model on the same data as `model.fit` with these arguments would, bit for bit; return their histories.

    On the Numba backend, compiled steps of several models run at the same time, one thread for each model; when fewer
    models than threads are left, all threads work on those. Python code, and everything on other backends, runs in one
    thread at a time. So the speedup is the number of cores if many steps run in one call, and none if Python code
    (a callback, validation of a short epoch) runs after every few steps.

    Args:
        models: compiled models of any shapes, types and backends, none of them twice.
        callbacks: a list for each model, such as `[[EarlyStopping()] for model in models]`; no callback may be shared.
        verbose: as for `fit`; a single bar counts the epochs of all models and shows the means of their values.

    All other arguments, and the rules for other threads, are those of `Sequential.fit`. A function that makes batches
    is called for each model. User-defined metrics, losses and layers are called in one thread at a time.

    Ctrl-C ends all fits after the current steps; their histories then say `interrupted`. A second Ctrl-C raises
    KeyboardInterrupt once they have ended.

    Raises:
        InputError: a model, data or an argument cannot be used; the message says which. Nothing was changed.
        Exception: the error that `fit` raised for a model, with its index, such as "models[2]: ", before the message.
            All other models are still trained to their end; the error's attribute `histories` is the list that
            `fit_many` would have returned, with None for the failed model.
    """
    from nnx.training import fitting

    found = distinct(models, "fit_many")
    each = _callbacks(callbacks, len(found))
    refuse_once("fit_many", len(found), x=x, validation_data=validation_data)
    data = x, y, sample_weight, label, validation_data, validation_split
    stop, turn, checked = Interrupt(), Lock(), set[Any]()
    fits = [Beside(turn, stop) for _ in found]

    @alone
    @on_its_device
    def fit(model: Trainable, number: int, train: bool = True) -> History:
        beside = None if current().size > 1 else fits[number]
        options = epochs, batch_size, shuffle, each[number], verbose, class_weight, accumulate, deterministic
        how = fitting.options(model, *options, beside)
        if train:
            return fitting.fit(model, *data, how)
        kind = model.n_inputs, model.n_outputs, model.dtype, model.backend.name, str(model.loss)
        if are_arrays(x, y, label) and (each[number] or kind not in checked):  # once for all models alike
            fitting.checked(model, *data, how)
            checked.add(kind)
        return History(model.epochs_done)

    histories: list[History] = []
    for number, model in enumerate(found):
        with naming(number):
            histories.append(fit(model, number, train=False))
    if current().size > 1:  # all processes take part in each fit, so these run one after the other
        for number, model in enumerate(found):
            with naming(number):
                histories[number] = fit(model, number)
        return histories

    jobs = deque(sorted(range(len(found)), key=lambda number: -found[number].flat.size))  # large ones first
    failed: dict[int, BaseException] = {}

    def work() -> None:
        while jobs:
            with suppress(IndexError):  # another thread took the last one
                number = jobs.popleft()
                if stop.asked:
                    histories[number].interrupted = True
                    continue
                try:
                    with turn:
                        histories[number] = fit(found[number], number)
                except BaseException as error:  # raised below
                    failed[number] = error
                    if not isinstance(error, Exception):
                        stop.asked = True

    try:
        stop.begin()
        with make(verbose, epochs * len(found), 0) as bar:
            _run(work, min(get_threads(), len(found)), stop, fits, bar)
    finally:
        try:
            stop.end()
        finally:  # once more, in case a signal interrupted that
            stop.end()
    if failed:
        raise _joined(failed, histories)
    return histories


def _run(work: Callable[[], None], count: int, stop: Interrupt, fits: list[Beside], bar: Progress) -> None:
    """Do the work in `count` threads, or in this one if no thread can be started, and show the progress."""
    threads, over, news = list[Thread](), list[bool](), SimpleQueue[None]()
    shown = 0.0

    def work_and_tell() -> None:
        busy.add(get_ident())
        try:
            work()
        finally:
            busy.discard(get_ident())
            over.append(True)
            news.put(None)

    def wait() -> None:  # not Thread.join, which after an interrupt takes the thread for ended
        nonlocal shown
        while len(over) < len(threads):
            with suppress(Empty):
                news.get(timeout=LOOK)
            shown = _show(fits, bar, shown)

    try:
        for number in range(count):
            run = copy_context().run
            thread = Thread(target=run, args=(work_and_tell,), name=f"nnx-fit-{number + 1}", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # the system allows no more threads
                break
            threads.append(thread)
        if not threads:
            work()
        wait()
        _show(fits, bar, shown)
    except BaseException:  # a second Ctrl-C: running fits end after their current steps
        stop.asked = True
        wait()
        raise


def _show(fits: list[Beside], bar: Progress, shown: float) -> float:
    """Show how many epochs are done and the means of the models' values; return the epochs shown, `shown` before."""
    begun = [fit.told for fit in fits if fit.told is not None]
    done = sum(told.done for told in begun)
    logs = [told.logs for told in begun if told.logs]
    if done > shown:
        bar.advance(done - shown)
    if logs and int(done + 1e-6) > int(shown + 1e-6):
        common = [name for name in logs[0] if all(name in other for other in logs)]
        bar.log(int(done + 1e-6) - 1, {name: sum(other[name] for other in logs) / len(logs) for name in common})
    return done


# ---- checks of the arguments -----------------------------------------------------------------------------------------


def distinct(models: Any, who: str) -> list[Any]:
    """Return models as a list, after checking that there is at least one, and none twice."""
    if not isinstance(models, Sequence) or isinstance(models, str | bytes):
        raise InputTypeError(f"{who}: models is a {type(models).__name__}; expected a list of models")
    found = list(models)
    if not found:
        raise InputError(f"{who}: the list of models is empty; expected one at least")
    for number, model in enumerate(found):
        if not isinstance(model, Trainable):
            raise InputTypeError(f"{who}: models[{number}] is {model!r:.60}, expected a model, as Sequential(...) is")
        if (first := next(i for i, other in enumerate(found) if other is model)) < number:
            raise InputError(
                f"{who}: models[{number}] is the same model as models[{first}]; give each once, or a copy: "
                "copy.deepcopy(model)"
            )
    return found


def _callbacks(callbacks: Any, count: int) -> list[Any]:
    """Return the list of callbacks of each model."""
    hint = "one fit's own cannot serve another: give a list for each model, as [[EarlyStopping()] for model in models]"
    if not isinstance(callbacks, list | tuple):
        raise InputTypeError(f"fit_many: callbacks={callbacks!r:.60}; {hint}")
    if not callbacks:
        return [()] * count
    if alone_one := next((one for one in callbacks if isinstance(one, Callback)), None):
        raise InputTypeError(f"fit_many: callbacks: {type(alone_one).__name__} is no list; {hint}")
    if len(callbacks) != count:
        raise InputError(f"fit_many: callbacks has {len(callbacks)} lists for {count} models; {hint}")
    seen: dict[int, int] = {}
    for number, some in enumerate(callbacks):
        for one in some if isinstance(some, list | tuple) else ():
            if seen.setdefault(id(one), number) != number:
                raise InputError(
                    f"fit_many: callbacks: the same {type(one).__name__} is given for models[{seen[id(one)]}] and "
                    f"models[{number}]; {hint}"
                )
    return list(callbacks)


def refuse_once(who: str, count: int, **arguments: Any) -> None:
    """Refuse an argument that can be iterated only once, such as a generator, if several models need it."""
    for name, given in arguments.items():
        if count > 1 and hasattr(type(given), "__next__"):
            raise InputError(
                f"{who}: {name} is a {type(given).__name__}, which gives its batches once, and {count} models want "
                "them; give the function that makes it, so that it is called for each"
            )


# ---- errors ----------------------------------------------------------------------------------------------------------


@contextmanager
def naming(number: int) -> Iterator[None]:
    """Add the model's index to any error raised within the block."""
    try:
        yield
    except Exception as error:
        _name(error, number)
        raise


def _name(error: BaseException, number: int) -> None:
    """Put the model's index before an error's message, or add it as a note where the message cannot be changed."""
    message, where = str(error), f"models[{number}]: "
    if error.args and error.args[0] == message:
        error.args = (where + message, *error.args[1:])
    if not str(error).startswith(where):
        error.add_note(f"{where.rstrip(': ')} of those given to fit_many")


def _joined(failed: dict[int, BaseException], histories: list[History]) -> BaseException:
    """Return the error to raise: the first one, with the others as notes and with the histories."""
    for number, error in failed.items():
        _name(error, number)
    numbers = sorted(failed, key=lambda number: (isinstance(failed[number], Exception), number))
    first = failed[numbers[0]]
    for number in numbers[1:]:
        first.add_note(str(failed[number]))
    with suppress(AttributeError):
        first.histories = [None if n in failed else h for n, h in enumerate(histories)]  # type: ignore[attr-defined]
    return first
