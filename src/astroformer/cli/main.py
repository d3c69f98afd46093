"""The words a user types: `astroformer show | train | predict | evaluate | report | export | symmetry | info`.

The exit status is 0 when the work is done, 2 for an error that the user can mend (one sentence on stderr), 1 for a
fault of ours, and 130 or 143 when a signal stopped the work.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from astroformer.errors import UserError, explained, unknown_name

TYPE_CHECKING = False  # typing takes longer to import than all that is above, and Ctrl-C has to wait for it
if TYPE_CHECKING:
    from typing import Any

COMMANDS = {
    "show": "show your images as a network will see them, before you train it",
    "train": "train a classifier from a folder of labelled images",
    "predict": "classify images with a trained model",
    "evaluate": "measure a trained model on labelled images",
    "report": "write a page on how far to trust a trained model, measured on labelled images",
    "export": "write a trained model as one graph for other programs (ONNX, OpenVINO, torch)",
    "symmetry": "measure what shifts, crops, flips and turns do to a model's answers",
    "info": "describe a model folder, the network variants, the data sets by name or this machine",
}
"""What each command does. A file of the same name beside this one holds the command as a class of that name."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The process is this command's: until the first imports are done, Ctrl-C just ends it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from astroformer.cli.console import show_what_can_be_shown
    from astroformer.cli.signals import signals_stop

    arguments = list(sys.argv[1:] if argv is None else argv)
    show_what_can_be_shown()
    with signals_stop() as came:
        try:
            command, given = _parse(arguments)
            if command is not None:
                command.run(given)
            sys.stdout.flush()  # here, where a full disk behind it can be said
            return 0
        except BaseException as error:
            if isinstance(error, SystemExit | GeneratorExit):
                raise
            return _told(error, came, debug="--debug" in arguments)


def _told(error: BaseException, came: list[int], *, debug: bool) -> int:
    """Says what ended a command, and gives its exit status.

    Args:
        error: that ended it.
        came: the signals that came meanwhile.
        debug: show the traceback.
    """
    import contextlib

    from astroformer.training.stopping import Interrupted

    if isinstance(error, BrokenPipeError):  # whoever read our output has seen enough
        with contextlib.suppress(OSError):  # of a program that has put something else in the place of stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 1
    if isinstance(error, Interrupted):
        print(error, file=sys.stderr)
        return 128 + error.number
    if came or isinstance(error, KeyboardInterrupt):  # what a signal ends may raise something else on its way
        print("stopped.", file=sys.stderr)
        return 128 + (came[0] if came else 2)
    if debug:
        import traceback

        traceback.print_exception(error)
    sentence = str(error) if isinstance(error, UserError) else None
    if isinstance(error, OSError):
        sentence = explained(error)
    if sentence is not None:
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    if not debug:
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
        for name, what in COMMANDS.items():
            print(f"  astroformer {name:<9} {what}")
        print("\nastroformer COMMAND --help lists the words of a command.")
        return None, set()
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("astroformer"))
        return None, set()
    if arguments[0] not in COMMANDS:
        raise unknown_name("command", arguments[0], COMMANDS)
    from astroformer.cli.arguments import given_options, parse

    name, words = arguments[0], arguments[1:]
    kind: type[Any] = getattr(importlib.import_module(f"astroformer.cli.{name}"), name.capitalize())
    given = given_options(words)
    if name not in ("train", "show"):  # the commands that take a recipe
        return parse(kind, words, name), given
    from astroformer.cli.train import batch_size_auto, starting_recipe

    words = batch_size_auto(words, given)
    return parse(kind, words, name, kind(settings=starting_recipe(words, given))), given
