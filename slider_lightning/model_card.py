"""The page of a published slider, in the form that the hub and its readers understand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from slider_lightning.adapters import SliderMetadata

PEFT_FILE = "pytorch_lora_weights.safetensors"
STRIP_FILE = "strip.png"
CONFIG_FILE = "training_config.yaml"
# What diffusers' own trainers of SDXL LoRAs write, so that the hub shows the widget; and what this is.
TAGS = ("text-to-image", "diffusers", "lora", "template:sd-lora", "stable-diffusion-xl", "concept-slider")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_DIFFUSERS = """\
import torch
from diffusers import StableDiffusionXLPipeline

device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.float16 if device == "cuda" else torch.float32
pipe = StableDiffusionXLPipeline.from_pretrained({base!r}, torch_dtype=dtype).to(device)
pipe.load_lora_weights({repo!r}, weight_name={file!r}, adapter_name={name!r})

scale, start_timestep, steps = 1.0, {start}, {steps}


def set_scale(timestep):  # the slider acts at and below start_timestep; before, the image takes its shape
    pipe.set_adapters({name!r}, scale if timestep <= start_timestep else 0.0)


def on_step_end(pipe, step, timestep, kwargs):
    if step + 1 < len(pipe.scheduler.timesteps):
        set_scale(pipe.scheduler.timesteps[step + 1])
    return kwargs


pipe.scheduler.set_timesteps(steps)
set_scale(pipe.scheduler.timesteps[0])
image = pipe(
    {prompt!r},
    num_inference_steps=steps,
    guidance_scale={guidance},
    generator=torch.Generator("cpu").manual_seed(0),
    callback_on_step_end=on_step_end,
).images[0]
image.save({picture!r})
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of; nothing in it is invented.

    Args:
        metadata: of the slider.
        config: the run's resolved config.
        summary: the run's figures.
        has_strip: whether the folder holds the strip.
        repo: where it is published; None stands for the folder itself.
        base_model: id on the hub, or a folder.
        licence: of the slider.
        base_licence: of the base model.
    """

    metadata: SliderMetadata
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    has_strip: bool
    repo: str | None = None
    base_model: str | None = None
    licence: str | None = None
    base_licence: str | None = None

    @property
    def name(self) -> str:
        """The concept's name, fit for files and for adapters."""
        return re.sub(r"\W+", "_", (self.metadata.concept or {}).get("name", "slider"))

    @property
    def kohya_file(self) -> str:
        """The file for A1111 and ComfyUI."""
        return f"{self.name}.safetensors"

    @property
    def low_rank(self) -> bool:
        """Whether diffusers can load it."""
        return self.metadata.rank is not None

    @property
    def base(self) -> str:
        """The base model's id or folder."""
        return self.base_model or self.metadata.base_model or str(self.config["model"]["path"])

    @property
    def prompt(self) -> str:
        """The prompt of the strip, else the concept's target."""
        strip = self.config.get("strip") or {}
        return str(strip.get("prompt") or (self.metadata.concept or {}).get("target", ""))


def model_card(facts: CardFacts) -> str:
    """README.md: the front matter and the page."""
    sections = [
        f"# {facts.name}: a concept slider for SDXL",
        _introduction(facts),
        *([f"![A row per seed, a column per scale]({STRIP_FILE})"] if facts.has_strip else []),
        "## Use it",
        _use(facts),
        "## What it does",
        _figures(facts.summary),
        "## How it was made",
        _training(facts),
    ]
    return f"---\n{_front_matter(facts)}\n---\n\n" + "\n\n".join(sections) + "\n"


def diffusers_code(facts: CardFacts) -> str:
    """The card's Python, which draws an image at scale +1 in diffusers, with the delayed start."""
    sampler = facts.config["sampler"]
    return _DIFFUSERS.format(
        base=facts.base,
        repo=facts.repo or ".",
        file=PEFT_FILE,
        name=facts.name,
        start=facts.metadata.start_timestep if facts.metadata.start_timestep is not None else 1000,
        steps=sampler["num_inference_steps"],
        guidance=sampler["guidance_scale"],
        prompt=facts.prompt,
        picture=f"{facts.name}.png",
    )


def _front_matter(facts: CardFacts) -> str:
    on_hub = _HUB_ID.fullmatch(facts.base) and not Path(facts.base).exists()
    widget = [{"text": facts.prompt, "output": {"url": STRIP_FILE}}] if facts.has_strip else None
    data = ModelCardData(
        base_model=facts.base if on_hub else None,
        license=facts.licence,
        library_name="diffusers" if facts.low_rank else None,
        pipeline_tag="text-to-image",
        tags=list(TAGS),
        widget=widget,
    )
    return data.to_yaml()


def _introduction(facts: CardFacts) -> str:
    concept = facts.metadata.concept or {}
    poles = [concept.get(pole) for pole in ("negative", "positive")]
    turns = f"from *{poles[0]}* (negative scales) to *{poles[1]}* (positive scales)" if all(poles) else "by its scale"
    lines = [f"A low-rank adapter that turns **{concept.get('target') or facts.name}** {turns}, continuously."]
    if not facts.low_rank:
        lines = [lines[0].replace("low-rank", "dense")]
    lines.append(f"Base model: `{facts.base}`" + (f" (licence: {facts.base_licence})." if facts.base_licence else "."))
    if facts.metadata.useful_scales is not None:
        lowest, highest = facts.metadata.useful_scales
        lines.append(f"Useful scales: {lowest:+g} to {highest:+g}; 0 is the base model.")
    if facts.metadata.start_timestep is not None:
        lines.append(f"Made to act at and below training timestep {facts.metadata.start_timestep} (`start_timestep`).")
    return "\n".join(lines)


def _use(facts: CardFacts) -> str:
    diffusers = "diffusers does not load dense sliders."
    if facts.low_rank:
        diffusers = f"In diffusers (with `peft` installed):\n\n```python\n{diffusers_code(facts)}```"
    web_uis = (
        f"In A1111 and ComfyUI take `{facts.kohya_file}`: `<lora:{facts.name}:1>` and `<lora:{facts.name}:-1>` in a "
        "prompt, or a LoRA loader (model only) with strength_model 1 and -1. There the slider acts from the first step."
    )
    here = (
        f"In slider_lightning:\n\n```\npython -m slider_lightning.generate sliders=[{facts.kohya_file}] "
        f"'prompt=\"{facts.prompt}\"' scales=[-2,-1,0,1,2]\n```"
    )
    return "\n\n".join([diffusers, web_uis, here])


def _figures(summary: Mapping[str, Any]) -> str:
    settings = summary.get("eval/settings/evaluation")
    if settings is None:
        return "It was not measured."
    kept = [
        f"| `{key.removeprefix('eval/')}` | {_interval(value)} | {value['n']} |"
        for key, value in summary.items()
        if key.startswith("eval/") and isinstance(value, dict) and "ci95" in value and _concerns(key, settings)
    ]
    judges = summary.get("eval/settings/judges") or {}
    named = "; ".join(f"{role}: {name}" for role, name in judges.items())
    sampler = summary.get("eval/settings/sampler") or {}
    sampled = ", ".join(
        f"{name} {value}" for name, value in sampler.items() if name != "_target_" and value is not None
    )
    heading = f"Measured on the base model with 95 % bootstrap intervals. Sampler: {sampled}. Judges: {named}."
    return "\n".join([heading, "", "| figure | mean | n |", "|---|---|---|", *kept])


def _concerns(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a figure is of the slider as a whole or of the attribute that it turns."""
    parts = key.split("/")
    return parts[1] not in ("attribute_shift", "attribute_range") or parts[2] == settings.get("target")


def _interval(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    lowest, highest = (f"{end:.3f}" if end is not None else "-" for end in value["ci95"])
    return f"{value['mean']:.3f} [{lowest}, {highest}]"


def _training(facts: CardFacts) -> str:
    metadata, concept = facts.metadata, facts.metadata.concept or {}
    form = f"rank {metadata.rank}, alpha {metadata.alpha:g}" if metadata.alpha is not None else "dense"
    lines = [f"- adapter: {form}, layers: {metadata.layers}", f"- objective: {metadata.objective}"]
    lines += [f"- eta: {metadata.eta:g}"] if metadata.eta is not None else []
    lines += [f"- preserved: {'; '.join(concept['preserve'])}"] if concept.get("preserve") else []
    lines += [f"- fingerprint of the base model: `{metadata.base_model_hash}`"] if metadata.base_model_hash else []
    return "\n".join([*lines, f"- every setting: [{CONFIG_FILE}]({CONFIG_FILE})"])
