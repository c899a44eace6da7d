"""Every error that this project raises on purpose, each with the exit code of its command."""


class OneRankerError(Exception):
    """Root of the family; a command that catches it logs the message and exits with `exit_code`."""

    exit_code = 1


class BundleError(OneRankerError):
    """A bundle on disk is missing, cut short, edited, or of another schema."""

    exit_code = 3


class FeedError(OneRankerError):
    """What a caller handed in does not fit: names, dtypes, shapes, limits, or a malformed request."""


class RequestError(FeedError):
    """One request of a batch is malformed; `position` counts from 0 in the order of the call."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"request {position}: {reason}")
        self.position = position
        self.reason = reason


class UsageError(OneRankerError):
    """A pipeline was called after close(), out of order, or from two threads at once."""


class DeviceError(OneRankerError):
    """An engine or a device that was asked for is not on this machine."""


class UnfitPlanError(DeviceError):
    """A plan was built for other devices than the one it was given; nothing else is wrong with either."""


class ParityError(OneRankerError):
    """A graph or an engine answers too far from the reference model."""

    exit_code = 4


class BuildError(OneRankerError):
    """An export could not be made from the settings or the checkpoint it was given."""
