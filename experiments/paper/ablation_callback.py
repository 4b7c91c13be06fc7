"""What a sweep does after a point that failed: note the failure, and draw table and figure anew."""

from __future__ import annotations

import logging
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.paper.ablation_records import (
    AblationConfig,
    PointRecord,
    point_of,
    setting_of,
    sweep_folder,
    write_point,
)
from experiments.paper.ablation_report import point_text, write_report
from slider_lightning.config import build, plain_config

logger = logging.getLogger(__name__)


class AblationCallback(Callback):
    """Keeps failed points in the report of an ablation, in whichever process a point runs."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record a failure, and draw what there is; a point that went well did so itself."""
        if job_return.cfg is None or job_return.status is not JobStatus.FAILED:
            return
        plain = plain_config(job_return.cfg)
        ablation: AblationConfig = build(plain["ablation"], "ablation.")
        folder = sweep_folder(plain, ablation)
        record = failure(plain, ablation, job_return._return_value)
        logger.error("Failed: %s: %s", point_text(record.point, ablation.axes), record.error)
        write_point(folder, record)
        write_report(folder)


def failure(config: dict[str, Any], ablation: AblationConfig, error: BaseException) -> PointRecord:
    """The record of a point that failed."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return PointRecord(point_of(config, ablation.axes), setting_of(config, ablation), error=reason)
