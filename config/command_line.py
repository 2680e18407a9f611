"""Command lines that refuse what they cannot read as everything else is refused."""

import argparse
from typing import NoReturn

from config.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError`, with the flag's name, and leaves it to the program how that is told."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found.

        Raises:
            InputError: always.
        """
        # Where it is about one flag, argparse says `argument --FLAG: …`.
        flag, colon, found = message.removeprefix("argument ").partition(": ")
        if not colon or not message.startswith("argument "):
            flag, found = "command line", message
        raise InputError(flag, f"cannot be read ({found})", "flags as --help lists them")
