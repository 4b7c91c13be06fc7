"""The one exception for what a user gave and the framework cannot take."""


class InputError(Exception):
    """Bad input from outside: a config value, a file, a folder, a prompt.

    The message is one sentence: what was expected, what came, how to mend it. Entry points print it on
    stderr and end with exit status 2; library callers may catch it.
    """
