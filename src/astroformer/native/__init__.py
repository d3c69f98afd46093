"""Kernels in C++ for the CPU: built once by the machine's own compiler, kept in the cache (`kept.py`), called through
ctypes.

A source file needs nothing but a C++17 compiler and OpenMP (no headers of torch), so that building takes seconds. What
the kernels share with Python is in headers that are generated when they are built (`headers.py`). The plain version of
every kernel is written in torch elsewhere. It runs where there is no compiler, where the cache is not to be trusted or
where ASTROFORMER_NATIVE=0 forbids the kernels; a test holds each kernel equal to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from astroformer.cache import default_cache
from astroformer.native import kept
from astroformer.native.headers import headers

_SOURCES = Path(__file__).parent
# Not -ffast-math as a whole: NaN and infinity have to come through, so that a diverged run is noticed. What is left
# lets the compiler vectorize sums and select instead of branching.
_FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"),
)


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """The kernels of `NAME.cpp` in this folder, compiled for this machine if they are not in the cache yet.

    None where they can't be had; `why_not` then says why.
    """
    if why_not() is not None:
        return None
    target = _target(_SOURCES / f"{name}.cpp")
    built = kept.read(target)
    try:
        if built is None:
            built = _build(_SOURCES / f"{name}.cpp")
            with contextlib.suppress(OSError):  # the next process builds it again
                kept.keep(target, built)
        return kept.load(built, name)
    except _NotBuilt as error:
        _failures[name] = str(error)
    except OSError as error:
        _failures[name] = f"the kernels of {name}.cpp could not be loaded: {error}"
    return None


class Kernels:
    """Calls the kernels of a source file that are compiled for one type; tensors must be contiguous.

    Args:
        source: name of the file in this folder, without `.cpp`.
        dtype: kernel NAME is the C function `NAME_float32` or `NAME_bfloat16`.
    """

    def __init__(self, source: str, dtype: torch.dtype) -> None:
        self._source, self._suffix = source, str(dtype).removeprefix("torch.")

    def __call__(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Calls a kernel. A tensor is passed as its address, None as a null pointer, a float as a C float."""
        kernel = _kernel(self._source, f"{name}_{self._suffix}")
        if kernel.argtypes is None:
            kernel.argtypes = [_type_of(argument) for argument in arguments]
        plain: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                assert argument.is_contiguous(), name
                plain.append(argument.data_ptr())
            else:
                plain.append(argument)
        kernel(*plain)


def _type_of(argument: Tensor | int | float | None) -> Any:
    """The type of a kernel's parameter, as its first call shows it; later calls pass the same types."""
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p
    return ctypes.c_float if isinstance(argument, float) else ctypes.c_int64


@functools.cache
def _kernel(source: str, name: str) -> Any:
    """A function of a library, kept here because `library[name]` makes a new one, without its types, each time."""
    found = library(source)
    assert found is not None, f"the kernels of {source} were not asked for first"
    kernel = found[name]
    kernel.restype = None
    return kernel


_failures: dict[str, str] = {}


def why_not(name: str | None = None) -> str | None:
    """Why there are no native kernels here (or those of one source), as half a sentence; None where there are."""
    if os.environ.get("ASTROFORMER_NATIVE") == "0":
        return "ASTROFORMER_NATIVE=0 forbids them"
    if platform.system() != "Linux":
        return f"they are built on Linux alone, and this is {platform.system()}"
    if _compiler() is None:
        return "there is no C++ compiler (g++, or what CXX names)"
    if not torch.backends.openmp.is_available():
        return "this torch was built without OpenMP"
    return _why_cache_not_trusted() or (_failures.get(name) if name else None)


def caveat() -> str | None:
    """The sentence for whoever asks a network, where the cache is what keeps the kernels from being used."""
    reason = _why_cache_not_trusted()
    return None if reason is None or reason != why_not() else f"plain torch answers, not the native kernels: {reason}."


def _why_cache_not_trusted() -> str | None:
    """Why no kernels may be loaded from the cache, as half a sentence with what to do; None where they may."""
    if platform.system() != "Linux":
        return None  # there are none
    try:
        folder = _folder()
    except OSError:
        return "there is neither a home folder nor a temporary one; set ASTROFORMER_CACHE to a folder of your own"
    return kept.why_not_trusted(folder)


def keep_compiled_code_private() -> None:
    """Lets torch's compiler keep its code where nobody else may write, if the user has chosen no place.

    On Linux its own place has a name that everybody knows, in the folder for temporary files, and it runs what it finds
    there. Where the cache is not to be trusted it gets a new folder, for this process.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ or platform.system() != "Linux":
        return
    chosen = None
    with contextlib.suppress(OSError):
        if _why_cache_not_trusted() is None:
            folder = _folder() / "inductor"
            kept.make_private(folder.parent)
            kept.make_private(folder)
            if _why_cache_not_trusted() is None and kept.why_not_trusted(folder) is None:
                chosen = folder
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(chosen or tempfile.mkdtemp(prefix="astroformer-"))


def _folder() -> Path:
    """Where built kernels are kept."""
    return default_cache() / "native"


@functools.cache
def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX") or "g++")


@functools.cache
def _processor() -> str:
    """The lines about the processor that -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.split(":")[0].strip() in wanted))


@functools.cache
def _compiler_version() -> str:
    compiler = _compiler()
    assert compiler is not None
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


def _target(source: Path) -> Path:
    """Where the built library lies; its name is a hash of all that it depends on, so that it never goes stale."""
    files = (source, *sorted(_SOURCES.glob("*.h")))
    texts = (file.read_text(encoding="utf-8") for file in files)
    parts = (*texts, *headers().values(), *_FLAGS, _compiler_version(), _processor())
    key = hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()
    return _folder() / f"{source.stem}-{key}.so"


class _NotBuilt(Exception):
    """Says why a source could not be compiled."""


def _build(source: Path) -> bytes:
    """The library that the compiler makes of `source`, in a folder that nobody else may enter.

    Raises:
        _NotBuilt: there is none.
    """
    compiler = _compiler()
    assert compiler is not None
    try:
        with tempfile.TemporaryDirectory() as private:
            for name, text in headers().items():
                (Path(private) / name).write_text(text, encoding="utf-8")
            made = Path(private) / "built.so"
            command = [compiler, *_FLAGS, f"-I{private}", str(source), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            return made.read_bytes()
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise _NotBuilt(f"{compiler} could not compile {source.name}: {lines[0]}") from None
    except OSError as error:
        raise _NotBuilt(f"{source.name} could not be compiled: {error}") from None
