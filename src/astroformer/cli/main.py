"""The words a user types: `astroformer train | predict | evaluate | symmetry | info`.

The exit status is 0 when the work is done, 2 for an error that the user can mend (one sentence on stderr), 1 for a
fault of ours, and 130 or 143 when a signal stopped the work.
"""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from typing import Any

from astroformer.errors import UserError, unknown_name

_COMMANDS = {
    "train": "train a classifier from a folder of labelled images",
    "predict": "classify images with a trained model",
    "evaluate": "measure a trained model on labelled images",
    "symmetry": "measure what shifts, crops, flips and turns do to a model's answers",
    "info": "describe a model folder, the network variants, the data sets by name or this machine",
}
"""What each command does. A file of the same name beside this one holds the command as a class of that name."""

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        command, given = _parse(arguments)
        if command is not None:
            command.run(given)
        return 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            if debug:
                traceback.print_exc()
            print(f"error: '{error.filename or 'the output'}' can't be written: {error.strerror}.", file=sys.stderr)
            return 2
        from astroformer.training.stopping import Interrupted

        if isinstance(error, Interrupted):
            print(error, file=sys.stderr)
            return 128 + error.number
        if debug:
            traceback.print_exc()
        else:
            print(
                f"error: {type(error).__name__}: {error}. This is a fault of astroformer, not yours; "
                "run again with --debug and report what it prints.",
                file=sys.stderr,
            )
        return 1


def _parse(arguments: list[str]) -> tuple[Any, set[str]]:
    """The command that `arguments` spell, and the names of the flags that were given."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("Astroformer: train an image classifier from scratch on the few labelled images you have.\n")
        for name, what in _COMMANDS.items():
            print(f"  astroformer {name:<9} {what}")
        print("\nastroformer COMMAND --help lists the words of a command.")
        return None, set()
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("astroformer"))
        return None, set()
    if arguments[0] not in _COMMANDS:
        raise unknown_name("command", arguments[0], _COMMANDS)
    from astroformer.cli.arguments import given_options, parse

    name, words = arguments[0], arguments[1:]
    kind: type[Any] = getattr(importlib.import_module(f"astroformer.cli.{name}"), name.capitalize())
    given = given_options(words)
    if name != "train":
        return parse(kind, words, name), given
    from astroformer.cli.train import batch_size_auto, starting_recipe

    words = batch_size_auto(words, given)
    return parse(kind, words, name, kind(settings=starting_recipe(words, given))), given
