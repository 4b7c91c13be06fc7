"""The teacher cache of one concept: which shards it needs, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slider_lightning.backbone import Backbone, PromptEmbeds, ddim_scheduler
from slider_lightning.data.states import ConceptEmbeds, Rollouts, draw_rollouts, rollout_noise, score_prompt
from slider_lightning.data.teacher.config import DTYPES, NOISED, TeacherConfig
from slider_lightning.data.teacher.mapped import Column, MappedStates
from slider_lightning.data.teacher.noised import noised_latents, noised_timesteps
from slider_lightning.data.teacher.shards import LAST_USE_FILE, Index, OpenShard, Part, ShardSeries, key_of
from slider_lightning.errors import InputError

# Part of the keys, so that files of another layout are never taken for these.
LAYOUT_VERSION = 4

Progress = Callable[[int, int], None]


class TeacherCache:
    """States and frozen scores of one concept, kept in a folder that concepts with the same states share.

    The folder's name is a hash of all that the states depend on: model, resolution, c_t, schedule, steps, guidance,
    seed, kind of states and dtype. Below it every prompt that was ever scored has a series of its own, so concepts that
    preserve other phrases or are freed from other contrasts share the rollouts and the prompts they have in common.
    The number of rollouts belongs to no key: asking for more extends what is there. Scores are those of the latents as
    stored, and remember which shard these came from.

    Args:
        root: folder of all caches.
        backbone: the frozen model.
        embeds: the prompts of concept and contrasts, texts and embeddings.
        config: what to hold.

    Raises:
        InputError: if no step of a rollout lies in the range of timesteps.
    """

    def __init__(self, root: Path, backbone: Backbone, embeds: ConceptEmbeds, config: TeacherConfig) -> None:
        self.backbone = backbone
        self.embeds = embeds
        self.config = config
        self.noised = config.states == NOISED
        self.depends_on = dependencies(backbone, embeds.concept.target, config)
        self.folder = Path(root) / key_of(self.depends_on)
        self._steps = slice(None) if self.noised else _scored_steps(backbone, config)
        self._drawn = self._series(self.folder, "rollouts", self.depends_on)
        if self.noised:
            clean = clean_dependencies(self.depends_on)
            self._drawn = self._series(Path(root) / key_of(clean), "rollouts", clean)
        self._prompts = _prompts_by_text(embeds)

    def states(self, progress: Progress | None = None) -> MappedStates:
        """All states: those that are intact on disk are opened there, the others computed and stored first.

        One shard at a time is in memory.

        Args:
            progress: called with (sample-forwards done, sample-forwards to do) while shards are computed.

        Returns:
            The states of `num_rollouts` rollouts, in order.

        Raises:
            InputError: if the folder cannot be written.
        """
        report = _counter(progress, self._pending_forwards())
        states = self._drawn.open(self._wanted, lambda part: self._draw(part, report))
        if self.noised:
            clean = {shard.part.first: shard for shard in states}
            series = self._series(self.folder, "noised", self.depends_on)
            states = series.open(lambda _: _made_from(states), lambda part: self._noise(clean[part.first]))
        scores = {text: self._scores(text, states, report) for text in self._scored_texts()}
        # What others are made from last, so that it is never the longest unused of them.
        for folder in dict.fromkeys((self.folder, self._drawn.folder.parent)):
            _touch(folder)
        shards = [
            self._columns(shard, {text: series[number] for text, series in scores.items()})
            for number, shard in enumerate(states)
        ]
        return MappedStates(shards, self.config.num_rollouts)

    def _columns(self, states: OpenShard, eps: Mapping[str, Tensor]) -> dict[str, Column]:
        """The fields of `TeacherStates` in one shard."""
        target, *others = self.embeds.texts()
        names = ("eps_positive", "eps_negative", "eps_contrast_positive", "eps_contrast_negative")
        several = {name: tuple(eps[text] for text in texts) for name, texts in zip(names, others, strict=True)}
        single = {name: tensor[:, self._steps] for name, tensor in states.tensors.items()}
        return {**({"eps_target": eps[target[0]]} if self.noised else {}), **single, **several}

    def _scored_texts(self) -> list[str]:
        """Prompts that cost forwards of their own, each once; a rollout predicts c_t on its way."""
        target, *others = self.embeds.texts()
        return list(dict.fromkeys([*(target if self.noised else ()), *(text for texts in others for text in texts)]))

    def _wanted(self, index: Index) -> list[Part]:
        """The shards that hold the rollouts wanted: those of the index, then new ones."""
        parts: list[Part] = []
        covered = 0
        while covered < self.config.num_rollouts:
            left = self.config.num_rollouts - covered
            count = index[covered].part.count if covered in index else min(self.config.rollouts_per_shard, left)
            parts.append(Part(covered, count))
            covered += count
        return parts

    def _draw(self, part: Part, report: Callable[[int], None]) -> dict[str, Tensor]:
        rollouts = draw_rollouts(
            self.backbone,
            self.embeds,
            rollout_noise(self.backbone, self.config.rollout.seed, _numbers(part)),
            self.config.rollout,
            dtype=self._dtype,
            to_clean=self.noised,
            on_forwards=report,
        )
        return self._stored(_clean_tensors(rollouts) if self.noised else _trajectory_tensors(rollouts))

    def _noise(self, clean: OpenShard) -> dict[str, Tensor]:
        config, seed, rollouts = self.config, self.config.rollout.seed, _numbers(clean.part)
        timestep = noised_timesteps(seed, rollouts, config.noised_per_rollout, *_timestep_range(self.backbone, config))
        latents = noised_latents(self.backbone, clean.tensors["latents"], seed, rollouts, timestep)
        return self._stored({"latents": latents, "timestep": timestep})

    def _scores(self, text: str, states: list[OpenShard], report: Callable[[int], None]) -> list[Tensor]:
        """The prediction for one prompt in every shard."""
        by_first = {shard.part.first: shard for shard in states}

        def build(part: Part) -> dict[str, Tensor]:
            tensors = by_first[part.first].tensors
            latents, timestep = (tensors[name][:, self._steps] for name in ("latents", "timestep"))
            eps = score_prompt(
                self.backbone,
                latents.flatten(0, 1),
                timestep.flatten(),
                self._prompts[text],
                self.config.rollout.rows_per_forward,
                report,
            )
            return self._stored({"eps": eps.unflatten(0, timestep.shape)})

        return [shard.tensors["eps"] for shard in self._score_series(text).open(lambda _: _made_from(states), build)]

    def _pending_forwards(self) -> int:
        """What `states` will cost if no other job builds meanwhile."""
        config, rollout = self.config, self.config.rollout
        guided = rollout.guidance_scale > 1
        per_rollout = rollout.num_inference_steps * (1 + guided) - (guided and not self.noised)
        drawn = self._drawn.pending(self._wanted)
        total = per_rollout * sum(part.count for part in drawn)
        parts = self._wanted(self._drawn.index(warn=False))
        per_rollout = config.noised_per_rollout if self.noised else self._steps.stop - self._steps.start
        for text in self._scored_texts():
            total += per_rollout * sum(part.count for part in self._score_series(text).pending(lambda _: parts))
        return total

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self.config.dtype]

    def _stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they lie on disk; timesteps stay integers."""
        return {
            name: tensor.to("cpu", self._dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    def _series(self, folder: Path, name: str, depends_on: Mapping[str, Any]) -> ShardSeries:
        return ShardSeries(folder / name, name, depends_on)

    def _score_series(self, text: str) -> ShardSeries:
        scored = {"prompt": text} if self.noised else {"prompt": text, "steps": [self._steps.start, self._steps.stop]}
        return ShardSeries(self.folder / "scores" / key_of(scored), "eps", scored)


def dependencies(backbone: Backbone, target: str, config: TeacherConfig) -> dict[str, Any]:
    """All that the states depend on, as JSON: what the folder's key is made of."""
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    # Names that start with "_" tell versions and origins, not numbers.
    schedule = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    shared = {
        "layout": LAYOUT_VERSION,
        "model": backbone.fingerprint,
        "model_dtype": str(backbone.dtype),
        "resolution": backbone.resolution,
        "target": target,
        "unconditional": "zeros" if backbone.prompt_encoder.force_zeros_for_empty_prompt else "empty prompt",
        "schedule": schedule,
        "num_inference_steps": config.rollout.num_inference_steps,
        "guidance_scale": config.rollout.guidance_scale,
        "seed": config.rollout.seed,
        "dtype": config.dtype,
        "states": config.states,
    }
    if config.states != NOISED:
        return shared
    return shared | {"per_rollout": config.noised_per_rollout, "timesteps": list(_timestep_range(backbone, config))}


def clean_dependencies(depends_on: Mapping[str, Any]) -> dict[str, Any]:
    """What the latents depend on that noised states are made from."""
    kept = {name: value for name, value in depends_on.items() if name not in ("per_rollout", "timesteps")}
    return {**kept, "states": "clean"}


def _timestep_range(backbone: Backbone, config: TeacherConfig) -> tuple[int, int]:
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    return config.range_within(scheduler.config.num_train_timesteps)


def _scored_steps(backbone: Backbone, config: TeacherConfig) -> slice:
    """Which steps of a rollout lie in the range of timesteps; they follow each other, for timesteps descend."""
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    scheduler.set_timesteps(config.rollout.num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    within = [step for step, t in enumerate(timesteps) if config.first_timestep <= t <= config.last_timestep]
    if not within:
        raise InputError(
            f"Expected steps of a rollout within data.source.first_timestep={config.first_timestep} and "
            f"last_timestep={config.last_timestep}, but its {len(timesteps)} timesteps run from {timesteps[0]} to "
            f"{timesteps[-1]}; widen the range."
        )
    return slice(within[0], within[-1] + 1)


def _prompts_by_text(embeds: ConceptEmbeds) -> dict[str, PromptEmbeds]:
    rows = zip(embeds.texts(), embeds.scored(), strict=True)
    return {text: prompts[number] for texts, prompts in rows for number, text in enumerate(texts)}


def _trajectory_tensors(rollouts: Rollouts) -> dict[str, Tensor]:
    assert rollouts.eps_target is not None
    timestep = rollouts.timestep.repeat(len(rollouts.latents), 1)
    return {"latents": rollouts.latents, "timestep": timestep, "eps_target": rollouts.eps_target}


def _clean_tensors(rollouts: Rollouts) -> dict[str, Tensor]:
    assert rollouts.clean is not None
    return {"latents": rollouts.clean}


def _made_from(shards: list[OpenShard]) -> list[Part]:
    return [Part(shard.part.first, shard.part.count, shard.sha256) for shard in shards]


def _numbers(part: Part) -> range:
    return range(part.first, part.first + part.count)


def _touch(folder: Path) -> None:
    """Record when a folder was last used, in a file that nothing hashes."""
    (folder / LAST_USE_FILE).touch()


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def report(forwards: int) -> None:
        nonlocal done
        done += forwards
        if progress is not None:
            # Another job that was building meanwhile can have left a shard that is to be built again.
            progress(done, max(done, total))

    return report
