"""The command line: one verb, one subcommand. Imports nothing heavy until a verb runs."""

from fourfold.cli.main import main

__all__ = ["main"]
