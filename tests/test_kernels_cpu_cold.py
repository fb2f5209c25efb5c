"""Every kernel in a fresh process, compiled and then loaded from disk; other CPUs' vectors; what becomes of the cache.

Code that is loaded is not the code that was compiled: Numba links it anew, and a sketch of these kernels was wrong only
then. Run as a script this file is such a process; it prints what it did as JSON.
"""

import hashlib
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cpus import CPUS

pytest.importorskip("numba")

import nnx
from nnx.backends.numba import warmup
from nnx.kernels import compiling, user_warnings
from nnx.kernels.cpu.jit import cache, shipped
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import ONLY_LINKED, OPTIONS, PART
from nnx.kernels.cpu.matmul import register_tile
from nnx.testing.rounding import rounding

NARROWER = [CPUS["Haswell"], CPUS["Nehalem"]]
CACHED = {"hits": 2, "misses": 0, "compiler": False}
AMD64 = os.uname().machine == "x86_64" if hasattr(os, "uname") else False


# ---- the process -----------------------------------------------------------------------------------------------------


def every_kernel():
    """Hold all operations, in both types, to the conformance suite; programs have tests of their own."""
    from nnx.backends.numba.backend import NumbaBackend
    from nnx.backends.numpy import NumpyBackend
    from nnx.testing import check_backend

    class Eager(NumbaBackend):
        compile = NumpyBackend.compile

    backend = Eager()
    report = check_backend(backend)
    kernels = [
        kernel
        for module in vars(backend.kernels).values()
        for kernel in vars(module).values()
        if hasattr(kernel, "py_func") and kernel.py_func.__module__ == module.__name__
    ]
    return report.cases, kernels


def products():
    """The own product on sizes that do and do not fill its tiles, from Python and from a cached caller."""
    from nnx.kernels.cpu.matmul import gemm, register_tile

    kernel, caller = gemm.ready(np.dtype("float32")), call_product()
    random, cases = np.random.default_rng(0), 0
    for m, k, n in (
        (1, 1, 1),
        (2, 300, 64),
        (37, 19, 53),
        (7, 257, 33),
        (517, 300, 70),
        (640, 40, 130),
        (70, 640, 140),
    ):
        for order in "CF":
            a, b = (np.asarray(random.normal(size=s), np.float32, order=order) for s in ((m, k), (k, n)))
            bias = random.normal(size=(1, n)).astype(np.float32)
            wanted = np.maximum(a.astype(np.float64) @ b + bias, 0)
            bound = rounding(k + 1, "float32") * (np.abs(a) @ np.abs(b) + np.abs(bias))
            for function in (kernel, caller)[: 2 if order == "C" else 1]:  # the caller is compiled for one order
                c = np.empty((m, n), np.float32)
                function(a, b, c, bias, c[:0], True, False)
                assert (np.abs(c - wanted) <= bound).all(), (m, k, n, order)
                cases += 1
    return cases + 1000 * register_tile.vector_bytes(), [kernel, caller]


def call_product():
    from nnx.kernels.cpu.matmul import gemm

    product = gemm.gemm_float32

    @njit(cache=True, nogil=True)
    def caller(a, b, c, bias, active, relu, accumulate):
        product(a, b, c, bias, active, relu, accumulate)

    return caller


def predictions():
    """Whole networks for few and many rows, in both types, against NumPy."""
    import nnx
    from nnx.kernels.cpu.matmul import register_tile
    from nnx.kernels.cpu.program import inference, inference_many

    random, cases = np.random.default_rng(0), 0
    fused = register_tile.WIDTH > 16  # AVX2 and wider, which have a fused multiply-add
    for dtype in ("float32", "float64"):
        for widths in ((1, 1, 1), (2, 64, 3), (7, 33, 17, 16, 5), (50, 2048, 20)):
            for end in (nnx.Softmax, nnx.Sigmoid, nnx.Tanh, nnx.Linear):
                layers = [nnx.Dense(a, b) for a, b in pairwise(widths)]
                parts = [part for layer in layers for part in (layer, nnx.ReLU())][:-1]
                net = nnx.Sequential(*parts, end(), dtype=dtype, backend="numba")
                for layer in layers:
                    layer.biases = random.normal(size=layer.biases.shape)
                x = random.normal(size=(70, widths[0])).astype(dtype)
                outputs = net.inference().native(x)
                assert outputs is not None, (widths, dtype)
                few = net.inference().native(x[:3])
                wanted = net.to("numpy").predict(x)
                # Roundings of the longest sum go either way: ten times the root of their number.
                bound = rounding(10 * np.sqrt(max(widths)), dtype) * max(1, np.abs(wanted).max())
                assert np.abs(outputs - wanted).max() < bound, (widths, dtype, end)
                assert np.abs(few - outputs[:3]).max() <= (0 if fused else bound), (widths, dtype, end)
                cases += 1
    return cases, [inference.forward, inference_many.forward_many]


def a_few():
    """Kernels that compile in a second or two."""
    from nnx.kernels.cpu.ops import optimizers, softmax
    from nnx.kernels.cpu.threads import pool

    x, y = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32), np.empty((9, 5), np.float32)
    softmax.backward(x, x, y, pool.board_at)
    assert np.allclose(y, x * (x - (x * x).sum(axis=1, keepdims=True)), atol=rounding(160, "float32"))  # terms up to 20
    p, m = np.ones(3, np.float32), np.zeros(3, np.float32)
    optimizers.sgd(p, p.copy(), m, np.array([0.1, 0, 0, 0, 0, 0]), np.zeros(3, np.int64), pool.board_at, 1)
    assert np.allclose(p, 0.9)
    return 2, [softmax.backward, optimizers.sgd]


def main():
    warnings.simplefilter("error")
    cases, kernels = globals()[sys.argv[1]]()
    used = [kernel for kernel in kernels if kernel.overloads]
    hits, misses = (sum(sum(getattr(k.stats, what).values()) for k in used) for what in ("cache_hits", "cache_misses"))
    compiler = "scipy.linalg" in sys.modules  # which Numba imports before it compiles anything
    print(json.dumps({"cases": cases, "kernels": len(used), "hits": hits, "misses": misses, "compiler": compiler}))


def start(what, **settings):
    environment = {**os.environ, **settings}
    return subprocess.Popen(
        [sys.executable, __file__, what], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    return finish_all([process])[0]


def finish_all(processes):
    """What each printed; all have ended before one is judged, or a failure would leave the others running."""
    printed = [process.communicate(timeout=600) for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output) for output, _ in printed]


# ---- cold and cached -------------------------------------------------------------------------------------------------


def cold(folder):
    return {"NUMBA_CACHE_DIR": str(folder)}


def test_every_kernel_cold_and_from_the_cache(tmp_path):
    first = finish(start("every_kernel", **cold(tmp_path)))
    assert first["kernels"] > 35
    assert first["hits"] == 0
    cached = finish(start("every_kernel", **cold(tmp_path)))
    assert cached["cases"] == first["cases"]
    assert cached["misses"] == 0
    assert not list(tmp_path.rglob("*.tmp"))


def test_prediction_compiled_and_from_the_cache():
    assert finish(start("predictions"))["cases"] == 32  # by whoever was first here; from now on all is there
    assert finish(start("predictions")) == {**CACHED, "hits": 4, "cases": 32, "kernels": 2}


@pytest.mark.skipif(not AMD64, reason="other CPUs' vectors can be had on x86-64 alone")
def test_prediction_with_narrower_vectors():
    for done in finish_all([start("predictions", **cpu.numba) for cpu in NARROWER]):
        assert done["cases"] == 32


@pytest.mark.skipif(not AMD64, reason="other CPUs' vectors can be had on x86-64 alone")
def test_the_product_with_narrower_vectors():
    both = finish_all([start("products", **cpu.numba) for cpu in NARROWER])  # one folder for both
    assert [done["cases"] // 1000 for done in both] == [cpu.vector for cpu in NARROWER]
    again = finish(start("products", **NARROWER[0].numba))
    assert again["misses"] == 0
    assert again["hits"] == 2


def test_two_processes_fill_one_cache(tmp_path):
    for done in finish_all([start("a_few", **cold(tmp_path)) for _ in range(2)]):
        assert done["cases"] == 2
    assert finish(start("a_few", **cold(tmp_path))) == {**CACHED, "cases": 2, "kernels": 2}


# ---- all of them at once ---------------------------------------------------------------------------------------------


def test_warmup_leaves_nothing_to_compile():
    seen = []
    count = warmup.warmup(lambda *where: seen.append(where), ("float32",))
    assert [done for done, _, _ in seen] == list(range(count + 1))
    assert {total for _, total, _ in seen} == {count}
    for file in cache.CPU.rglob("*.py"):
        module = ".".join(("nnx", "kernels", "cpu", *file.relative_to(cache.CPU).with_suffix("").parts))
        for name, kernel in vars(import_module(module.removesuffix(".__init__"))).items():
            if isinstance(getattr(kernel, "_cache", None), cache.KernelCache) and name != "gemm_float64":
                assert kernel.overloads, f"{file.name}: {name}"


@pytest.mark.parametrize("processes", range(1, 7))
def test_each_process_goes_its_own_way_through_all_steps(processes):
    steps = list(range(11))
    ways = [warmup.order_of(steps, processes, number) for number in range(processes)]
    assert all(sorted(way) == steps for way in ways)
    assert ways[0] == steps
    assert len({way[0] for way in ways}) == processes
    half = len(steps) // (processes + processes % 2)
    for there, back in zip(ways[::2], ways[1::2], strict=False):  # who go towards each other
        assert not set(there[:half]) & set(back[:half])


def test_what_takes_longest_is_at_both_ends():
    backend = nnx.get_backend("numba")
    both = "training, by rows (float64)"
    for dtypes, last in ((("float32",), "prediction of many rows (float32)"), (warmup.DTYPES, both)):
        names = [name for name, _ in warmup._steps(backend, dtypes)]
        assert (names[0], names[-1]) == ("training, by rows (float32)", last)
        assert len(set(names)) == len(names) == sum(len(warmup._calls(backend, dtype)) for dtype in dtypes)


def test_a_helper_begins_at_the_end(monkeypatch):
    done = []
    monkeypatch.setattr(warmup, "_steps", lambda *all: [(str(n), partial(done.append, n)) for n in range(4)])
    warmup._help("2", "1", "float32")
    assert done == [3, 2, 1, 0]


def test_a_helper_is_a_process(tmp_path):
    command = [sys.executable, "-m", "nnx.backends.numba.warmup", "2", "1", "float32"]
    helper = subprocess.Popen(command, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)})
    try:
        while not list(tmp_path.rglob("*.nbc")):
            assert helper.poll() is None
            time.sleep(0.05)
    finally:
        helper.kill()
        helper.wait()


def test_a_helper_leaves_where_nothing_can_be_handed_over(monkeypatch):
    monkeypatch.setattr(cache, "writable", lambda: None)
    monkeypatch.setattr(warmup, "order_of", lambda *all: pytest.fail("it compiles"))
    warmup._help("2", "1", "float32")


def test_no_helper_stays_when_warmup_ends(monkeypatch):
    started = []

    def start(*args, **options):
        started.append(subprocess.Popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(warmup, "Popen", start)
    with pytest.raises(KeyboardInterrupt), warmup.helpers(3, ("float32",)):
        raise KeyboardInterrupt
    assert len(started) == 2
    assert all(helper.returncode is not None for helper in started)


def test_warmup_is_alone_where_no_python_can_be_started(monkeypatch):
    monkeypatch.setattr(warmup, "get_threads", lambda: 64)
    assert warmup.most_processes() == warmup.PROCESSES
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert warmup.most_processes() == 1


# ---- the cache itself ------------------------------------------------------------------------------------------------


@pytest.fixture
def places(monkeypatch):
    """Make the cache look for its folders anew, in the list that is returned."""
    found = []
    monkeypatch.setattr(cache, "places", lambda: iter(found))
    monkeypatch.setattr(user_warnings, "_given", {})
    caches = (cache.readable, cache.writable)
    for function in caches:
        function.cache_clear()
    yield found
    for function in caches:
        function.cache_clear()


def compiled(factor=2):
    """Compile, or load, a function, and call it; return how often it was found on disk."""

    @njit(cache=True)
    def times(x):
        return x * factor

    assert times(21) == 21 * factor
    return sum(times.stats.cache_hits.values())


def test_a_function_is_kept_and_found_again(places, tmp_path):
    places.append(tmp_path)
    assert compiled() == 0
    assert compiled() == 1
    assert compiled(factor=3) == 0  # what is in the closure counts
    assert compiled(factor=3) == 1


def test_who_waits_hears_of_compiling_and_not_of_loading(places, tmp_path):
    places.append(tmp_path)
    before = compiling.spent()
    compiled()
    compiled(factor=3)
    after = compiling.spent()
    assert after > before
    compiled()
    assert compiling.spent() == after


def test_a_changed_source_or_version_is_another_cache(places, tmp_path, monkeypatch):
    places.append(tmp_path)
    compiled()
    monkeypatch.setattr(cache, "stamp", lambda: "another")
    cache.readable.cache_clear()
    cache.writable.cache_clear()
    assert compiled() == 0


def test_the_stamp_covers_every_file_of_the_folder_at_any_depth(monkeypatch, tmp_path):
    folder = tmp_path / "cpu"
    (folder / "ops" / "deep").mkdir(parents=True)
    (folder / "a.py").write_text("1")
    monkeypatch.setattr(cache, "CPU", folder)
    stamps = [cache.stamp.__wrapped__()]
    inner = [folder / "ops" / "a.py", folder / "ops" / "deep" / "a.py"]
    for number, file in enumerate([folder / "a.py", folder / "b.py", *inner, *inner, tmp_path / "philox.py"]):
        file.write_text(str(number))
        stamps.append(cache.stamp.__wrapped__())
    inner[0].rename(folder / "ops" / "b.py")  # a kernel goes by its module's name
    stamps.append(cache.stamp.__wrapped__())
    assert len(set(stamps)) == len(stamps)


def test_the_stamp_covers_compiled_files_without_their_sources_or_the_archive(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "CPU", tmp_path / "nnx.zip" / "nnx" / "kernels" / "cpu")
    monkeypatch.setattr(cache.sys, "executable", str(tmp_path / "program"))
    files = [tmp_path / "program", tmp_path / "nnx.zip", cache.CPU / "ops" / "a.pyc", cache.CPU / "a.py"]
    stamps = []
    for file in files:
        if (tmp_path / "nnx.zip").is_file():
            (tmp_path / "nnx.zip").unlink()
        file.parent.mkdir(parents=True, exist_ok=True)
        for text in ("1", "2"):
            file.write_text(text)
            stamps.append(cache.stamp.__wrapped__())
        assert not cache.distrust(tmp_path.stat())
    assert len(set(stamps)) == len(stamps)


def test_the_stamp_covers_all_that_kernels_are_made_of():
    code = "import sys, nnx; nnx.get_backend('numba'); print(*(m.__file__ for n, m in sys.modules.items() if %r in n))"
    done = subprocess.run([sys.executable, "-c", code % "nnx.kernels."], capture_output=True, text=True, check=True)
    loaded = {Path(file) for file in done.stdout.split()}
    assert len(loaded) > 20
    assert loaded <= set(cache.sources())


MACHINE = "x86_64-unknown-linux-gnu", "znver3", "+avx2"


@pytest.fixture
def image(places, tmp_path, monkeypatch):
    """An image with kernels of another process, which they were shipped from."""
    tell = cache.tell_of_shipped.__wrapped__
    monkeypatch.setattr(cache, "tell_of_shipped", lambda machine: tell(MACHINE))
    places.append(tmp_path / "mine")
    compiled()
    (Path(cache.readable()[0]) / "tuning-znver3-2.json").write_text("{}")
    assert cache.ship(tmp_path / "image", MACHINE) == 2
    places[:] = [tmp_path / "image" / "nnx"]
    cache.readable.cache_clear()
    cache.writable.cache_clear()
    return places[0]


def test_shipped_kernels_are_loaded_and_what_was_measured_comes_along(image):
    assert compiled() == 1
    assert compiled(factor=3) == 0  # which was not shipped: no word about that
    assert [file.name for file in image.glob("kernels-*/tuning-*")] == ["tuning-znver3-2.json"]


@pytest.mark.parametrize(
    ("name", "there", "why"),
    [
        ("processor", "sapphire\x1brapids", r"processor is znver3 here, and was 'sapphire\\x1brapids' there"),
        ("NumPy", "0.1", "NumPy is .* here, and was '0.1' there"),
        ("features", "+amx", "the processor has other features"),
        ("stamp", "0", "nnx's sources, the sizes of caches or Numba's settings are others"),
        (None, None, "its shipped.json is damaged"),
    ],
)
def test_why_shipped_kernels_do_not_fit_is_told(image, name, there, why):
    about = image / shipped.ABOUT
    given = json.loads(about.read_text())
    about.write_text(json.dumps(given | {name: there}) if name else "{")
    with pytest.warns(RuntimeWarning, match=why):
        assert compiled(factor=5) == 0


def test_a_damaged_entry_is_compiled_again(places, tmp_path):
    places.append(tmp_path)
    compiled()
    (entry,) = tmp_path.rglob("*.nbc")
    content = entry.read_bytes()
    others = [hashlib.sha256(other).digest() + other for other in (b"junk", pickle.dumps(5), pickle.dumps((1, 2, 3)))]
    for damaged in (b"", content[:100], content[:-1], b"x" * len(content), *others):
        entry.write_bytes(damaged)
        assert compiled() == 0
        assert compiled() == 1


def test_an_empty_folder_in_the_place_of_an_entry_gives_way(places, tmp_path):
    places.append(tmp_path)
    compiled()
    (entry,) = tmp_path.rglob("*.nbc")
    entry.unlink()
    entry.mkdir()
    assert compiled() == 0
    assert compiled() == 1


def test_nowhere_to_write_is_one_warning(places, tmp_path):
    file = tmp_path / "file"
    file.touch()
    places.append(file / "below")
    with pytest.warns(RuntimeWarning, match="cannot be kept on disk .*set NUMBA_CACHE_DIR") as caught:
        assert compiled() == compiled() == compiled(factor=3) == 0
    assert len(caught) == 1


def test_a_full_disk_is_one_warning(places, tmp_path, monkeypatch):
    places.append(tmp_path)

    def full(file, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left on device") as caught:
        assert compiled() == compiled() == 0
    assert len(caught) == 1


def test_entries_that_were_shipped_are_read_and_others_go_elsewhere(places, tmp_path, monkeypatch):
    places.append(tmp_path / "shipped")
    compiled()
    places[:] = [tmp_path / "shipped", tmp_path / "own"]
    cache.readable.cache_clear()
    cache.writable.cache_clear()
    monkeypatch.setattr(cache, "writable", lambda: Path(cache.readable()[1]))
    cache.readable()[1].mkdir(parents=True)
    assert compiled() == 1
    assert compiled(factor=3) == 0
    assert len(list((tmp_path / "own").rglob("*.nbc"))) == 1


POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no modes and owners as in POSIX here")


@pytest.fixture
def umask():
    """Sets the umask; puts it back at the end."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def modes(folder):
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}, {
        stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.nbc")
    }


@POSIX
@pytest.mark.parametrize(("mask", "folders", "files"), [
    (0o022, 0o755, 0o644), (0o027, 0o750, 0o640), (0o077, 0o700, 0o600), (0o002, 0o755, 0o644), (0, 0o755, 0o644),
])  # fmt: skip
def test_others_may_read_what_the_umask_says_and_never_write(mask, folders, files, places, tmp_path, umask):
    places.append(tmp_path / "a" / "b")
    umask(mask)
    assert compiled() == 0
    made, entries = modes(tmp_path / "a")
    assert made == {folders, files}
    assert entries == {files}
    assert compiled() == 1


@POSIX
@pytest.mark.parametrize(("which", "repaired"), [("kernels-*", 0), ("*/*.nbc", 1)])
@pytest.mark.parametrize("writable_by", [0o020, 0o002])
def test_what_others_could_have_written_is_not_loaded(which, repaired, writable_by, places, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir(0o755)
    monkeypatch.setattr(cache, "CPU", package)
    places.append(tmp_path / "cache")
    assert compiled() == 0
    (found,) = (tmp_path / "cache").glob(which)
    mode = stat.S_IMODE(found.stat().st_mode)
    found.chmod(mode | writable_by)
    cache.writable.cache_clear()
    told = rf"{found} can be written to by other users \(mode {mode | writable_by:o}\).*chmod go-w.*NUMBA_CACHE_DIR"
    with pytest.warns(RuntimeWarning, match=told):
        assert compiled() == 0
    assert compiled() == repaired  # a file is written anew; a second warning would be an error
    found.chmod(mode)
    assert compiled() == 1
    found.chmod(mode | writable_by)
    package.chmod(0o777)  # who may write there, may write to nnx itself: no cache would keep them off
    assert compiled() == 1


def owned(found, **changes):
    names = ("st_mode", "st_uid", "st_gid")
    return SimpleNamespace(**{name: changes.get(name, getattr(found, name)) for name in names})


@POSIX
def test_the_owner_is_this_user_or_root_or_that_of_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "CPU", tmp_path)
    found = tmp_path.stat()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert not cache.distrust(owned(found, st_uid=4711))
    assert not cache.distrust(owned(found, st_uid=0))
    assert not cache.distrust(found)  # the package's
    assert "belongs to another user (4712)" in cache.distrust(owned(found, st_uid=4712))
    tmp_path.chmod(0o775)
    assert not cache.distrust(owned(found, st_mode=0o40775))
    assert "mode 775" in cache.distrust(owned(found, st_mode=0o40775, st_gid=found.st_gid + 1))
    monkeypatch.delattr(os, "geteuid")  # Windows
    assert not cache.distrust(owned(found, st_uid=4712))


@POSIX
def test_nothing_is_written_where_it_would_not_be_read(places, tmp_path, monkeypatch):
    (tmp_path / "package").mkdir(0o755)
    monkeypatch.setattr(cache, "CPU", tmp_path / "package")
    places += [tmp_path / "everybodys", tmp_path / "own"]
    cache.readable()[0].mkdir(parents=True)
    cache.readable()[0].chmod(0o777)
    with pytest.warns(RuntimeWarning, match="everybodys.* can be written to by other users"):
        assert compiled() == 0
    assert not list((tmp_path / "everybodys").rglob("*.nbc"))
    assert compiled() == 1
    monkeypatch.setattr(user_warnings, "_given", {})
    del places[1]
    cache.readable.cache_clear()
    cache.writable.cache_clear()
    with pytest.warns(RuntimeWarning) as caught:  # one reason, one warning
        assert compiled() == compiled() == 0
    assert len(caught) == 1


def as_another(uid):
    """Compile, or load, in a process of another user; return 10 and how often it was found on disk."""
    child = os.fork()
    if child == 0:
        try:
            os.setuid(uid)
            warnings.simplefilter("ignore")
            os._exit(10 + compiled())
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_loads_what_root_left_for_all_and_not_what_a_third_wrote(places, umask):
    umask(0o022)
    with tempfile.TemporaryDirectory() as folder:  # where all may go, as they may not to pytest's
        os.chmod(folder, 0o755)
        places.append(Path(folder))
        assert compiled() == 0
        (entry,) = Path(folder).rglob("*.nbc")
        assert as_another(65534) == 11
        os.chown(entry, 4711, 4711)
        assert as_another(65534) == 10
        assert as_another(4711) == 11


def test_an_environment_without_a_home_leaves_the_package_alone(monkeypatch):
    monkeypatch.setattr(cache.config, "CACHE_DIR", "")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert list(cache.places()) == [cache.CPU / "__pycache__"]


def test_old_versions_are_removed(places, tmp_path):
    for n in range(6):
        folder = tmp_path / f"kernels-{n}"
        folder.mkdir()
        os.utime(folder, (n, n))
    places.append(tmp_path)
    compiled()
    left = {folder.name for folder in tmp_path.glob("kernels-*")}
    assert left == {"kernels-3", "kernels-4", "kernels-5", f"kernels-{cache.stamp()}"}


def test_what_a_killed_process_left_is_removed_later(places, tmp_path):
    places.append(tmp_path)
    folder = cache.readable()[0]
    folder.mkdir(parents=True)
    for name, age in (("old.tmp", 2 * cache.ABANDONED), ("new.tmp", 0.0), ("old.nbc", 2 * cache.ABANDONED)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    cache.writable()
    assert sorted(file.name for file in folder.iterdir()) == ["new.tmp", "old.nbc"]


def test_where_entries_lie(monkeypatch, tmp_path):
    monkeypatch.setattr(cache.config, "CACHE_DIR", str(tmp_path))
    assert list(cache.places()) == [tmp_path / "nnx"]
    monkeypatch.setattr(cache.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert next(cache.places()) == cache.CPU / "__pycache__"
    if sys.platform == "linux":
        assert list(cache.places())[1] == tmp_path / "nnx"


@pytest.mark.skipif(not ONLY_LINKED, reason="this version of Numba has not been tried")
def test_a_helper_becomes_part_of_its_caller_and_nothing_else():
    @njit(**PART)
    def double(x):
        return 2 * x

    @njit
    def caller(x):
        return double(x) + 1

    assert caller(3) == 7
    (helper,) = double.overloads.values()
    assert type(helper.library).__name__ == "LinkedCode"
    assert not helper.library.codegen._engine.is_symbol_defined(helper.fndesc.llvm_func_name)


@pytest.mark.skipif(not ONLY_LINKED, reason="this version of Numba has not been tried")
def test_loops_have_the_widest_vectors_that_the_processor_has():
    @njit(**{**OPTIONS, "cache": False})
    def twice(x):
        for i in range(x.size):
            x[i] = 2 * x[i]

    twice(np.ones(100, np.float32))
    (code,) = twice.inspect_asm().values()
    assert {64: "%zmm", 32: "%ymm", 16: ""}[register_tile.WIDTH] in code


def test_constants_of_callers_are_operands_like_any_other_where_that_is_said():
    @njit(literals=False)
    def total(x, pair):
        return x + pair[0] + pair[1]

    @njit
    def caller(x):
        return total(x, (x, 1)) + total(1, (x, x)) + total(x, (2, x))

    assert caller(10) == 64
    assert len(total.overloads) == 1


def test_kernels_name_njit_from_the_cache_module():
    for file in cache.CPU.rglob("*.py"):
        for line in file.read_text().splitlines():
            plain = line.startswith("from numba import") and "njit" in line
            assert not plain, f"{file.name}: njit of Numba's own keeps the old code of what it imports"


def test_nothing_imports_numba_before_it_is_asked_for():
    code = "import sys, nnx, nnx.backends.threads, nnx.backends.numba.warmup; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    main()


BESIDE_TORCH = """
import sys
if sys.argv[1] == "torch":
    import torch
    torch.randn(300, 300) @ torch.randn(300, 300)  # its threads are there
import numpy as np, nnx
x, y = nnx.datasets.spiral(100, 3)
losses = []
for widths in ((2, 64, 3), (2, 300, 3)):
    model = nnx.Sequential(nnx.Dense(*widths[:2]), nnx.ReLU(), nnx.Dense(*widths[1:]), nnx.Softmax(), backend="numba")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.02))
    losses += list(model.steps(x, y, 50)) + [float(model.predict(x).sum())]
print(*losses)
"""


def test_a_process_that_has_imported_torch_computes_the_same():
    pytest.importorskip("torch")
    told = [
        subprocess.run([sys.executable, "-c", BESIDE_TORCH, who], capture_output=True, text=True, check=True).stdout
        for who in ("torch", "alone")
    ]
    beside, alone = (np.array(text.split(), float) for text in told)
    assert len(alone) == 102
    np.testing.assert_allclose(beside, alone, rtol=1e-5)
