"""What a finished training leaves on Weights & Biases: its strip, its figures, and its slider with its origins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slider_lightning.adapters import SliderMetadata
from slider_lightning.data import PairDataModule, StepDataModule, TeacherDataModule
from slider_lightning.data.pairs import twins_digest
from slider_lightning.data.stored import stored_caches
from slider_lightning.data.teacher import TeacherCache
from slider_lightning.training.wandb_config import flat, plain_name
from slider_lightning.training.wandb_run import WandbRun


@dataclass(frozen=True)
class Origin:
    """Something that a slider was trained with. It is told by its digest and stays where it lies.

    Args:
        type: "base-model", "teacher-cache" or "image-pairs".
        key: what tells it from others of the type.
        digest: of its content.
        metadata: what else is known of it.
    """

    type: str
    key: str
    digest: str
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """The artifact's name."""
        return f"{self.type}-{plain_name(self.key)[:40]}"


def origins(told: SliderMetadata, data: StepDataModule) -> list[Origin]:
    """The base model, and what the steps were drawn from where that is stored.

    Args:
        told: what the slider file says.
        data: what its training was fed, made ready.
    """
    fingerprint = told.base_model_hash or ""
    found = [Origin("base-model", fingerprint, fingerprint, {"name": told.base_model, "fingerprint": fingerprint})]
    if isinstance(data, TeacherDataModule):
        found.append(_teacher_cache(data))
    elif isinstance(data, PairDataModule):
        digest = twins_digest(data.twins)
        found.append(Origin("image-pairs", digest, digest, {"sha256": digest, "twins": len(data.twins)}))
    return found


def _teacher_cache(data: TeacherDataModule) -> Origin:
    """The cache by its key; a digest over those of its shards tells what it held."""
    cache = TeacherCache(data.cache_dir, data.backbone, data.embeds, data.config)
    stored = next(each for each in stored_caches(data.cache_dir) if each.path == cache.folder)
    shards = {str(file.path.relative_to(cache.folder)): file.sha256 for file in stored.files}
    digest = hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()
    told = {
        "key": stored.name,
        "bytes": stored.size,
        "shards": len(shards),
        "sha256": digest,
        "depends_on": cache.depends_on,
    }
    return Origin("teacher-cache", stored.name, digest, told)


def log_results(run: WandbRun, told: SliderMetadata, found: Sequence[Origin], strip_caption: str) -> None:
    """Log what lies in the run's folder.

    Args:
        run: where.
        told: what its slider file says.
        found: what it was trained with.
        strip_caption: what the strip shows.
    """
    import wandb

    folder = run.folder
    run.summarize(flat(folder.read_summary()))
    if folder.strip.is_file():
        run.log({"strip": wandb.Image(str(folder.strip), caption=strip_caption)})
    for origin in found:
        use_origin(run, origin)
    slider = wandb.Artifact(f"slider-{run.card.id}", type="slider", metadata=asdict(told))
    # Uploaded from the run folder itself: a copy beside it would be one more place to keep until a later upload.
    slider.add_file(str(folder.slider.absolute()), name=folder.slider.name, policy="immutable")
    publish(run, slider)


def use_origin(run: WandbRun, origin: Origin) -> None:
    """Name something as used by a run, without uploading it."""
    import wandb

    artifact = wandb.Artifact(origin.name, type=origin.type, metadata=origin.metadata)
    artifact.add_reference(f"sha256:{origin.digest}", name="digest")
    publish(run, artifact, used=True)


def publish(run: WandbRun, artifact: Any, *, used: bool = False) -> None:
    """Hand an artifact over to be uploaded when the service takes it, now or by a later upload from disk.

    The public `log_artifact` and `use_artifact` first ask the service, and wait where it is away; the latter also waits
    for the upload, and refuses to work offline. What both hand over in the end is handed over here.

    Args:
        run: that made or used it.
        artifact: of wandb, complete.
        used: the run used it, and did not make it.
    """
    artifact.finalize()
    run.tell(
        lambda inner: inner._interface.publish_artifact(
            inner, artifact, ["latest"], is_user_created=True, use_after_commit=used
        )
    )
