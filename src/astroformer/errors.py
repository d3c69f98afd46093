"""The one family of errors that a user can cause and can mend, and what errors of the system mean to a user."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input: the message names the value, what is allowed, and what to do.

    The command line prints it as one sentence and exits with status 2. Any other error is a fault of this package and
    exits with status 1.

    Examples:
        >>> import astroformer
        >>> try:
        ...     astroformer.create_model("astroformer_atto", group="d5")
        ... except astroformer.UserError as error:
        ...     print(error)
        unknown group 'd5'. Did you mean 'd4'? Allowed: d4, mirror, none.
    """

    def __init__(self, message: object) -> None:
        super().__init__(_shortened(one_line(str(message))))


class PartsNotClasses(UserError):
    """A folder holds the parts of a set, such as train and test, where classes are needed.

    Attributes:
        found: the beginning of the sentence, which says so.
        part: the one that is most likely meant by whoever does not train.
    """

    def __init__(self, found: str, how: str, part: object) -> None:
        super().__init__(f"{found}: {how}")
        self.found, self.part = found, part


_LONGEST = 4000  # characters of a message


def one_line(text: str) -> str:
    """A text without what would end its line or steer a terminal, which names and values of a user may hold."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _shortened(message: str) -> str:
    """A message, or both ends of a very long one."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST - 1000]}…{message[-1000:]}"
    return message


def unknown_name(kind: str, name: object, allowed: Iterable[str], *, see: str = "", near: float = 0.5) -> UserError:
    """The error for a `name` that is not among the `allowed` names of that `kind`, with the nearest one suggested.

    Args:
        kind: what the name is of, as a noun.
        name: what was given.
        allowed: the names that there are.
        see: a sentence that says where they are listed, in place of the list.
        near: how alike the nearest one has to be, from 0 to 1. Where there are many names, one that looks a little
            alike most often means something else.
    """
    import difflib  # here, since it takes longer than all else that a command needs before it can be interrupted

    names, name = sorted(allowed), str(name)
    name = name if len(name) <= 200 else f"{name[:200]}…"
    found = difflib.get_close_matches(name, names, n=1, cutoff=near)
    hint = f" Did you mean '{found[0]}'?" if found else ""
    listed = see or f"Allowed: {', '.join(names)}."
    return UserError(f"unknown {kind} '{name}'.{hint} {listed}")


def check_installed(package: str, extra: str, what: str) -> None:
    """Raises a `UserError` where a package is not installed that only some users need.

    Args:
        package: the name that is imported.
        extra: of this package, which brings it.
        what: needs it; the sentence begins with this.
    """
    import importlib.util  # here, for it imports much that a command can't be interrupted in

    if importlib.util.find_spec(package) is None:
        raise UserError(f'{what} needs the extra [{extra}]; in a clone of the repository: pip install ".[{extra}]"')


def explained(error: OSError, file: object = None) -> str | None:
    """What an error of the system means, as a sentence: which file, what is wrong with it, and what can be done.

    Args:
        error: as it was raised.
        file: that it is about, where the error does not say it.

    Returns:
        None for an error that is no condition of the user's machine, and so may be a fault of this package.

    Examples:
        >>> import errno
        >>> explained(OSError(errno.ENOSPC, "No space left on device", "run/checkpoint.safetensors"))
        "'run/checkpoint.safetensors' can't be written: the disk is full. Free some space, or choose another disk."
    """
    name = error.filename if error.filename is not None else file
    path = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{_named(path)} {_forbidden(path)}"
    if error.errno == errno.ENAMETOOLONG:
        return f"the name {_named(path)} is too long for this disk. Choose a shorter one."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{_named(path)} can't be opened: too many files are open. Raise the limit, for instance: ulimit -n 4096"
    said = _CONDITIONS.get(error.errno or 0)
    return None if said is None else f"{_named(path)} {said}"


_CONDITIONS = {
    errno.ENOSPC: "can't be written: the disk is full. Free some space, or choose another disk.",
    errno.EDQUOT: "can't be written: your share of the disk (quota) is full. Free some space, or choose another disk.",
    errno.EFBIG: "can't be written: it is larger than the disk, or the limit of this process (ulimit -f), allows.",
    errno.EROFS: "can't be written: the disk is read-only. Choose another disk.",
    errno.EISDIR: "is a folder, and a file is needed. Choose another name.",
    errno.ENOTDIR: "can't be reached: a part of its path is a file, and a folder is needed.",
    errno.ENOENT: "does not exist.",
    errno.ELOOP: "can't be reached: its links lead in a circle.",
    errno.EIO: "can't be read or written: the disk reports a fault (input/output error).",
    errno.ESTALE: "can't be reached: its disk is on another machine and was changed there. Try again.",
    errno.ENODEV: "can't be reached: its device is not there.",
    errno.ENXIO: "can't be reached: its device is not there.",
    errno.ETIMEDOUT: "can't be reached: its disk does not answer.",
    errno.ENOMEM: "can't be read: there is not enough memory.",
}


def _named(path: str) -> str:
    """A path as a sentence names it; of a very long one, both ends."""
    if not path:
        return "standard output, or a file,"
    return f"'{path}'" if len(path) <= 300 else f"'{path[:100]}…{path[-100:]}'"


def _forbidden(path: str) -> str:
    """What of a file is not permitted, as the rest of a sentence."""
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.X_OK) and os.path.isdir(folder):
        return f"may not be opened: the folder '{folder}' may not be entered. Change its permissions."
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return "may not be read. Change its permissions."
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return "may not be written. Change its permissions, or choose another place."
    if not os.path.exists(path) and not os.access(folder, os.W_OK):
        return f"may not be made: the folder '{folder}' may not be written. Change its permissions, or choose another."
    return "may not be opened. Change its permissions, or choose another place."


def brief(value: object, most: int = 200) -> str:
    """A value as Python spells it, cut where that takes more than `most` characters: a sentence stays one.

    Examples:
        >>> brief("a" * 1000, 8)
        "'aaaaaaa…"
    """
    try:
        spelled = repr(value)
    except (ValueError, RecursionError):  # Python does not spell numbers of thousands of digits
        spelled = f"a {type(value).__name__} that is too long to show"
    return spelled if len(spelled) <= most else f"{spelled[:most]}…"
