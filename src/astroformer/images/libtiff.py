"""What libtiff says of a damaged file. Pillow lets it print that on the screen, without the file's name, and reads some
damaged files as if they were whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL

_listening = threading.local()  # .said: the list of the messages of this thread, while it decodes
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


@contextlib.contextmanager
def errors_of_libtiff() -> Iterator[list[str]]:
    """The errors that libtiff reports in this thread while the block runs. Where libtiff is not found the list stays
    empty, and messages go to the screen."""
    _handler()
    said: list[str] = []
    _listening.said = said
    try:
        yield said
    finally:
        _listening.said = None


@functools.cache
def _handler() -> Any:
    """The function that libtiff calls with each error. It is kept for as long as the process lives."""
    library, text = _library(), _formatter()
    if library is None or text is None:
        return None

    def report(module: bytes | None, form: bytes, values: int) -> None:
        buffer = ctypes.create_string_buffer(512)
        text(buffer, ctypes.c_size_t(len(buffer)), form, ctypes.c_void_p(values))
        words = [part.decode("utf-8", "replace") for part in (module, buffer.value) if part]
        said = getattr(_listening, "said", None)
        if said is None:  # of an image that another part of the program reads
            print(": ".join(words), file=sys.stderr)
        else:
            said.append(words[-1] if words else "unknown")

    handler = _Handler(report)
    library.TIFFSetErrorHandler.restype = ctypes.c_void_p
    library.TIFFSetErrorHandler(handler)
    library.TIFFSetWarningHandler.restype = ctypes.c_void_p
    library.TIFFSetWarningHandler(None)  # of private tags and the like
    return handler


def _library() -> Any:
    """The libtiff that Pillow uses: the one that its wheel brings, or that of the system."""
    home = Path(PIL.__file__).parent
    brought = [*home.parent.glob("pillow.libs/libtiff*.so*"), *home.glob(".dylibs/libtiff*.dylib")]
    found = str(brought[0]) if brought else ctypes.util.find_library("tiff")
    try:
        return ctypes.CDLL(found) if found else None
    except OSError:
        return None


def _formatter() -> Any:
    """C's vsnprintf; None on Windows, where lists of arguments are passed in another way."""
    return None if sys.platform == "win32" else ctypes.CDLL(None).vsnprintf
