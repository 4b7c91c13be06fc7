"""How a slider is loaded elsewhere: commands to copy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from evaluation.pages.run_view import RunView

DENSE = "slider_lightning.adapters.DenseConfig"


@dataclass(frozen=True)
class Step:
    """One way to load a slider.

    Args:
        where: the program.
        code: what to type there; empty where nothing is typed.
        note: what a reader must know.
    """

    where: str
    code: str
    note: str = ""


def loading_steps(view: RunView) -> tuple[Step, ...]:
    """Here, in diffusers, in A1111 and ComfyUI; a dense slider is no LoRA and loads here alone."""
    prompt = view.examples[0].prompt if view.examples else f"image of {view.config['concept'].get('target', view.name)}"
    scales = f"[{','.join(f'{scale:g}' for scale in view.scales)}]"
    # Hydra's own quotes within the shell's: a prompt may hold commas and brackets.
    quoted = 'prompt="' + prompt.replace("\\", "\\\\").replace('"', '\\"') + '"'
    parts = ["python", "-m", "slider_lightning.generate", f"sliders=[{view.folder}]", quoted, f"scales={scales}"]
    here = " ".join(map(shlex.quote, parts))
    first = Step("slider_lightning", here, "From the folder where this page's run was evaluated.")
    if view.config["adapter"].get("_target_") == DENSE:
        return (first,)
    start = view.config["sampler"]["start_timestep"]
    late = f"There the slider acts at every step; here it starts at timestep {start}."
    return (
        first,
        Step("diffusers", diffusers_code(view, prompt), late),
        Step(
            "A1111",
            f"<lora:{view.name}:1>",
            f"Copy slider.safetensors to models/Lora/{view.name}.safetensors and write this into the prompt; the "
            "number is the scale.",
        ),
        Step("ComfyUI", "", "Copy it to models/loras and add a LoraLoaderModelOnly node; strength_model is the scale."),
    )


def diffusers_code(view: RunView, prompt: str) -> str:
    """Python that makes one image at scale +1 with diffusers."""
    model = str(view.config["model"]["path"])
    return "\n".join(
        [
            "from diffusers import StableDiffusionXLPipeline",
            "",
            f"pipe = StableDiffusionXLPipeline.from_pretrained({model!r})",
            f"pipe.load_lora_weights({view.folder!r}, weight_name='slider.safetensors', adapter_name={view.name!r})",
            f"pipe.set_adapters({view.name!r}, 1.0)  # the scale",
            f"image = pipe({prompt!r}).images[0]",
        ]
    )
