"""The one family of errors that a user can cause and can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input: the message names the value, what is allowed, and what to do.

    The command line prints it as one sentence and exits with status 2. Any other error is a fault of this package and
    exits with status 1.

    Example:
        >>> import astroformer
        >>> try:
        ...     astroformer.create_model("astroformer_atto", group="d5")
        ... except astroformer.UserError as error:
        ...     print(error)
        unknown group 'd5'. Did you mean 'd4'? Allowed: d4, mirror, none.
    """


def unknown_name(kind: str, name: object, allowed: Iterable[str], *, see: str = "") -> UserError:
    """The error for a `name` that is not among the `allowed` names of that `kind`, with the nearest one suggested.

    Args:
        kind: what the name is of, as a noun.
        name: what was given.
        allowed: the names that there are.
        see: a sentence that says where they are listed, in place of the list.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = see or f"Allowed: {', '.join(names)}."
    return UserError(f"unknown {kind} '{name}'.{hint} {listed}")
