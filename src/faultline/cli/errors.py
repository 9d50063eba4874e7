"""What a verb may end with.

CliError
└── UsageError     the command line or this machine is at fault; exit code 2
"""


class CliError(Exception):
    """Root of the tree: a sentence for the person at the terminal."""


class UsageError(CliError):
    """Nothing was done; the message says what to do instead."""
