"""Runtime: chains the exported stages of one bundle and answers requests, without torch."""

from runtime.errors import (
    BuildError,
    BundleError,
    DeviceError,
    FeedError,
    OneRankerError,
    ParityError,
    RequestError,
    UsageError,
)
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline

__all__ = [
    "BuildError",
    "BundleError",
    "DeviceError",
    "FeedError",
    "Manifest",
    "OneRankerError",
    "ParityError",
    "Pipeline",
    "RequestError",
    "UsageError",
]
