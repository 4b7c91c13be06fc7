"""A progress bar for a callback."""

from collections.abc import Callable

from slider_lightning.training.progress import ProgressReport


class ProgressCallback:
    """A context that gives a callback (done, total), which shows a `ProgressReport` from its first call on.

    Args:
        description: what is being done.
    """

    def __init__(self, description: str) -> None:
        self._report = ProgressReport(description)

    def __enter__(self) -> Callable[[int, int], None]:
        return self._report.update

    def __exit__(self, *_: object) -> None:
        self._report.stop()
