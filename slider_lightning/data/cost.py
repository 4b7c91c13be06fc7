"""What a stage of a run cost: seconds and UNet sample-forwards."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slider_lightning.backbone import Backbone


@dataclass
class Cost:
    """Seconds of wall time, and rows that passed the UNet forward."""

    seconds: float = 0.0
    sample_forwards: int = 0

    def summary(self, stage: str, sharers: int = 1) -> dict[str, float]:
        """Flat keys for summary.json, e.g. `cost/seconds/train`.

        Args:
            stage: what it was spent on.
            sharers: how many share it; each is told an equal part, so that they add up to the whole.
        """
        forwards = self.sample_forwards if sharers == 1 else self.sample_forwards / sharers
        return {f"cost/seconds/{stage}": self.seconds / sharers, f"cost/sample_forwards/{stage}": forwards}


@contextmanager
def measured_cost(backbone: Backbone) -> Iterator[Cost]:
    """Gives a `Cost` that is filled in when the block ends, by an exception too."""
    cost = Cost()
    started, forwards = time.perf_counter(), backbone.sample_forwards
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        cost.sample_forwards = backbone.sample_forwards - forwards
