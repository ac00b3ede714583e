"""The one exception for mistakes that a user can mend."""


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one sentence that says which file or key is meant, what is wrong with it and what to do. The
    command line prints it alone, without a traceback, and exits with status 2.
    """
