"""What a slider file says about itself."""

import json
from dataclasses import dataclass
from typing import Any

from slider_lightning.adapters.calibration import Calibration
from slider_lightning.config.adapter import AdapterConfig, DenseConfig

CONFIGS: dict[str, type[AdapterConfig] | type[DenseConfig]] = {
    config.model_fields["kind"].default: config for config in (AdapterConfig, DenseConfig)
}


@dataclass(frozen=True)
class SliderMetadata:
    """What a slider file says about itself. None means not known, as in files from elsewhere, or not there.

    Args:
        layers: the layer set, one of `LAYER_SETS`.
        adapter: kind of the adapter, "lora" or "dense".
        rank: of a low-rank adapter.
        alpha: of a low-rank adapter; its strength at slider_scale 1 is alpha / rank.
        objective: which loss it was trained with, e.g. "text_enhance".
        concept: the concept's fields (name, target, positive, negative, preserve) as plain JSON values.
        eta: strength in the training target (eq. 3 and 4).
        project: what was taken out of the direction (contrasts, method, strength) as plain JSON values.
        base_model: name or folder of the model it was trained on.
        base_model_hash: that backbone's fingerprint.
        useful_scales: (lowest, highest) slider_scale with an even response: where it was measured, or else where the
            slider was trained.
        start_timestep: training timestep at and below which the slider should act, 0..999.
        calibration: the measured dose-response; from a file as plain JSON values.

    Raises:
        ValueError: if the kind of adapter is unknown, or the calibration's values do not belong together.
    """

    layers: str
    adapter: str = "lora"
    rank: int | None = None
    alpha: float | None = None
    objective: str | None = None
    concept: dict[str, Any] | None = None
    eta: float | None = None
    project: dict[str, Any] | None = None
    base_model: str | None = None
    base_model_hash: str | None = None
    useful_scales: tuple[float, float] | None = None
    start_timestep: int | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.adapter not in CONFIGS:
            raise ValueError(f"Expected an adapter among {', '.join(CONFIGS)}, but got {self.adapter!r}.")
        # Through JSON once, so that what is loaded equals what was saved: JSON has no tuples.
        for name in ("concept", "project"):
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))
        if isinstance(self.calibration, dict):
            object.__setattr__(self, "calibration", Calibration(**self.calibration))
        if self.useful_scales is not None:
            lowest, highest = self.useful_scales
            object.__setattr__(self, "useful_scales", (float(lowest), float(highest)))

    @classmethod
    def of(cls, config: AdapterConfig | DenseConfig, **known: Any) -> "SliderMetadata":
        """The metadata of a slider of this form; `known` are the other fields."""
        return cls(adapter=config.kind, **config.plain(without=("kind",)), **known)

    @property
    def adapter_config(self) -> AdapterConfig | DenseConfig:
        """The part that says how the adapter is built; InputError if it is out of range."""
        config = CONFIGS[self.adapter]
        return config(**{name: getattr(self, name) for name in config.model_fields if name != "kind"})
