"""What goes wrong with data and checkpoints; every message gives where, got, expected and the next step."""


class DataError(ValueError):
    """A table, schema or column that cannot be used as it is."""


class CheckpointError(ValueError):
    """A checkpoint folder that is missing, damaged or of another model."""


class DeviceError(RuntimeError):
    """A device, or a library for it, that was asked for and is not here; nothing else is taken instead."""
