"""The errors that textanchor raises on purpose: one paragraph naming the place, what was expected and the way out."""


class TextanchorError(Exception):
    """A mistake the user can mend; the command line prints it without a traceback and ends with exit code 2."""


class ConfigError(TextanchorError):
    """A configuration file or object has an unknown key, a wrong type or a value out of range."""


class OutputError(TextanchorError):
    """An output cannot be written: its place is in use or not free, or the system refuses it."""


class DataError(TextanchorError):
    """A data file, an image or a record in it cannot be used."""


class ModelError(TextanchorError):
    """A checkpoint or model is missing, damaged, unsupported or has no part where one was expected."""


class HoldError(TextanchorError):
    """A hold that was asked for is not legal for that tensor, or its promise was not kept."""


class FetchError(TextanchorError):
    """A file that textanchor takes from a package registry is out of reach or has the wrong checksum."""
