"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(Exception):
    """A fault in what the user gave (a file, a setting, a machine without room).

    The message is one sentence that names the file or setting, says what is wrong with it and what to do. The command line
    prints it without a traceback and exits with code 2; inside the library it is an ordinary exception.
    """
