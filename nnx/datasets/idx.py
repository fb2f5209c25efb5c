"""MNIST and Fashion-MNIST, from the IDX files that they are published in.

An IDX file starts with two zero bytes, the element type (8 is an unsigned byte), and the number of dimensions; each
dimension follows as a big-endian 32-bit number, then the elements.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.backends.printable import printable
from nnx.errors import FileFormatError
from nnx.files import as_path, check_size, open_file, size_of

from .download import Source, fetch

MNIST = Source(
    "mnist",
    (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
FASHION_MNIST = Source(
    "fashion-mnist",
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)

MOST = 1 << 30  # elements of a file: twenty times as many as MNIST has
X = NDArray[np.float32]
Y = NDArray[np.int64]


def mnist(path: str | os.PathLike[str] | None = None) -> tuple[X, Y, X, Y]:
    """Return the MNIST handwritten digits: 60,000 images for training and 10,000 for the test, 28 x 28 pixels.

    Args:
        path: a folder that holds the four IDX files, compressed with gzip or not. None: the folder `mnist` inside the
            one that the environment variable NNX_DATA names; if it is not set, the files are downloaded, once, into
            the user's cache folder.

    Returns:
        x_train: [60000, 784] float32, from 0 (paper) to 1 (ink); a row is an image, line by line.
        y_train: [60000] int64, 0 to 9.
        x_test: [10000, 784] float32.
        y_test: [10000] int64.
        Samples keep the order of the files.

    Raises:
        FileNotFoundError: the folder, or some of its files, are not there.
        FileFormatError: a file is damaged, or not what its name says.
        MissingExtra: a download needs pooch, which is not installed.
        ConnectionError: the download failed.

    Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, 1998.
    """
    return _read_folder(_folder("mnist", path, MNIST))


def fashion_mnist(path: str | os.PathLike[str] | None = None) -> tuple[X, Y, X, Y]:
    """Return Fashion-MNIST: pictures of clothes in MNIST's format, which the book uses in chapters 19 to 22.

    The classes are T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Args:
        path: as for `mnist`; the folder inside NNX_DATA is `fashion-mnist`.

    Returns:
        (x_train, y_train, x_test, y_test), of the shapes that `mnist` returns.

    Raises:
        FileNotFoundError, FileFormatError, MissingExtra, ConnectionError: as `mnist` does.

    Source: H. Xiao, K. Rasul and R. Vollgraf, arXiv:1708.07747.
    """
    return _read_folder(_folder("fashion_mnist", path, FASHION_MNIST))


def _folder(call: str, path: str | os.PathLike[str] | None, source: Source) -> Path:
    """Return the folder to read."""
    if path is not None:
        return as_path(call, path)
    if not (root := os.environ.get("NNX_DATA", "").strip()):
        return fetch(source)
    folder = as_path("NNX_DATA", root)
    if folder.name != source.name or (folder / source.name).is_dir():
        folder /= source.name
    if not folder.exists():
        raise FileNotFoundError(
            f"{call}(): NNX_DATA is {printable(root)}, but the folder {printable(folder)} does not exist; "
            f"put the four IDX files there, give their folder as an argument, or unset NNX_DATA to download them"
        )
    return folder


def _read_folder(folder: Path) -> tuple[X, Y, X, Y]:
    files = _find(folder)
    return *_read_pair(files[0], files[1]), *_read_pair(files[2], files[3])


def _find(folder: Path) -> list[Path]:
    """Return the paths of training images, training labels, test images and test labels."""
    if not folder.exists():
        raise FileNotFoundError(
            f"{printable(folder)}: there is no such folder, expected one that holds the four IDX files"
        )
    if not folder.is_dir():
        raise FileFormatError(f"{folder}: this is a file, expected the folder that holds the four IDX files")
    found, missing = [], []
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        # Some programs that unpack the files put a dot where the published names have a dash.
        spellings = [f"{stem}-ubyte{end}" for end in ("", ".gz") for stem in (name, name.replace("-idx", ".idx"))]
        paths = [folder / spelling for spelling in spellings if (folder / spelling).is_file()]
        found += paths[:1]
        missing += [] if paths else [f"{name}-ubyte.gz"]
    if missing:
        raise FileNotFoundError(
            f"{printable(folder)}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there, "
            f"expected the data set's four IDX files (with or without .gz); put the missing ones into this folder"
        )
    return found


def _read_pair(images: Path, labels: Path) -> tuple[X, Y]:
    """Read images and the labels that belong to them: [N, 784] and [N]."""
    pixels, classes = _read_idx(images, 3), _read_idx(labels, 1)
    if pixels.shape[1:] != (28, 28):
        raise FileFormatError(
            f"{images}: the images have {pixels.shape[1]} x {pixels.shape[2]} pixels, expected 28 x 28; "
            f"is this another data set's file?"
        )
    if len(pixels) != len(classes):
        raise FileFormatError(
            f"{images} holds {len(pixels)} images, but {labels} holds {len(classes)} labels, expected as many of each; "
            f"take both files from the same place"
        )
    if classes.max() > 9:
        row = int(np.argmax(classes > 9))
        raise FileFormatError(
            f"{labels}: label {row} is {classes[row]}, expected 0 to 9; is this another data set's file?"
        )
    x = np.divide(pixels.reshape(len(pixels), -1), np.float32(255), dtype=np.float32)
    return x, classes.astype(np.int64)


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes with a given number of dimensions."""
    with _opened(path) as (file, size):
        magic, start = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
        head = file.read(start)
        if head[:4] != magic:
            raise FileFormatError(
                f"{path}: the file starts with the bytes {head[:4].hex(' ') or '(none)'}, expected {magic.hex(' ')}, "
                f"an IDX file of {dimensions}-dimensional unsigned bytes; is it another file under this name?"
            )
        shape = tuple(int.from_bytes(head[at : at + 4], "big") for at in range(4, start, 4))
        elements, data = math.prod(shape), b""
        whole = start + elements
        if size in (None, whole):
            check_size(path, elements, MOST, "is said to hold")
            # One byte more than there should be, as gzip verifies its checksum only at the end of the file.
            data = file.read(elements + 1)
            size = len(head) + len(data)
    if size != whole:
        held = f"more than {whole}" if len(data) > elements else size
        raise FileFormatError(
            f"{path}: the file holds {held} bytes (uncompressed), expected {whole} "
            f"({start} of header and {' x '.join(map(str, shape))} elements); it is damaged: download it again"
        )
    if 0 in shape:
        raise FileFormatError(f"{path}: the file holds no elements ({' x '.join(map(str, shape))}), expected some")
    return np.frombuffer(data, np.uint8).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, int | None]]:
    """Open a file, decompressing it if it is a gzip file, whatever its name: browsers may unpack and keep the name.

    Yields:
        The file and its size; None if the size is known only after reading.
    """
    with open_file(path, "an IDX file") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            yield (gzip.GzipFile(fileobj=file, mode="rb"), None) if compressed else (file, size_of(file))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FileFormatError(
                f"{path}: the file cannot be uncompressed ({error}), expected a whole gzip file; download it again"
            ) from error
