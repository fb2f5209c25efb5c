"""Parsing of the environment variables that choose how a backend computes; an invalid value is an error."""

from __future__ import annotations

import os

from nnx.backends.errors import InputError

GEMM_RULES = ("auto", "own", "blas")


def gemm_rule() -> str:
    """Return which library does matrix products: the value of NNX_GEMM, or "auto"."""
    rule = os.environ.get("NNX_GEMM", "").strip().lower() or "auto"
    if rule not in GEMM_RULES:
        raise InputError(f"NNX_GEMM={rule!r}: expected one of {', '.join(GEMM_RULES)}")
    return rule


def tuned() -> bool:
    """Return whether kernels may be chosen by measurement, as NNX_TUNE says."""
    word = os.environ.get("NNX_TUNE", "")
    if word.strip().lower() not in ("", "auto", "off"):
        raise InputError(f"NNX_TUNE={word!r}: expected auto or off")
    return word.strip().lower() != "off"


def cublas_overrides() -> list[str]:
    """Return, as "NAME=value", the environment variables with which cuBLAS itself chooses the precision of products."""
    names = sorted(name for name in os.environ if name == "NVIDIA_TF32_OVERRIDE" or "CUBLAS_EMULAT" in name)
    return [f"{name}={os.environ[name]}" for name in names]


def flag(variable: str) -> bool | None:
    """Return whether a variable says yes or no; None if it is not set."""
    text = os.environ.get(variable, "")
    word = text.strip().lower()
    if word in ("", "1", "0", "true", "false", "yes", "no"):
        return None if not word else word in ("1", "true", "yes")
    raise InputError(f"{variable}={text!r}: expected 1 or 0")
