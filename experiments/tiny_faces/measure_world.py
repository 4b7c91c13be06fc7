"""How well the generator obeys its prompts, judged by the probe, held-out combinations included."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from evaluation.judges.panel import AttributeJudge
from experiments.tiny_faces.captions import AGE_WORDS
from experiments.tiny_faces.faces import BACKGROUNDS, GENDERS, HAIR_COLORS, HELD_OUT, SKIN_TONES
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.generation import generate_images

MENTION_SHARE = 0.6
HELD_OUT_EVERY = 4
PHRASES: dict[str, dict[str, str]] = {
    "gender": dict.fromkeys(GENDERS, ""),
    "glasses": {"glasses": "with glasses", "none": "without glasses"},
    "skin_tone": {label: f"{label} skin" for label in SKIN_TONES},
    "background": {label: f"{label} background" for label in BACKGROUNDS},
    "curl": {"curly": "curly hair", "straight": "straight hair"},
    "hair_color": {label: f"{label} hair" for label in HAIR_COLORS},
    "age": {word: word for word in AGE_WORDS},
}


@dataclass(frozen=True)
class PromptedFace:
    """A prompt and the labels it asks for, attribute -> label; what it does not name is free."""

    prompt: str
    labels: dict[str, str]
    held_out: bool


def prompted_faces(count: int, seed: int = 0) -> list[PromptedFace]:
    """Prompts that name random attributes; every fourth asks for a combination that training never saw."""
    rng = random.Random(seed)
    faces = []
    for index in range(count):
        named = {name: rng.choice(list(phrases)) for name, phrases in PHRASES.items() if rng.random() < MENTION_SHARE}
        held_out = index % HELD_OUT_EVERY == 0
        if held_out:
            named |= rng.choice(HELD_OUT)
        phrases = [PHRASES[name][label] for name, label in named.items() if name != "gender"]
        rng.shuffle(phrases)
        prompt = ", ".join([f"image of a {named.get('gender', 'person')}", *phrases])
        faces.append(PromptedFace(prompt, named, held_out))
    return faces


def measure_world(
    backbone: Backbone, probe: AttributeJudge, count: int, on_batch: Callable[[int, int], None] | None = None
) -> tuple[dict[str, float], Tensor]:
    """Generate `count` images (25 steps, guidance 4) and judge them.

    Returns:
        Flat figures and the images (count, 3, height, width). `world/obeyed/<attribute>` is the share of images whose
        probed class is the prompted one, `world/obeyed_held_out/<attribute>` the same for held-out combinations,
        `world/age_spearman` the rank correlation of prompted age words with probed age; `.../n` how many named it.
    """
    faces = prompted_faces(count)
    config = SamplerConfig(num_inference_steps=25, guidance_scale=4.0)
    prompts, seeds = [face.prompt for face in faces], list(range(count))
    images = generate_images(backbone, None, prompts, seeds, [0.0], config, batch_size=64, on_batch=on_batch)[:, 0]
    readings = probe(images)
    figures: dict[str, float] = {"world/images": float(count)}
    for attribute in probe.schema:
        if attribute.kind == "class" and attribute.name in PHRASES:
            best = readings[attribute.name].argmax(-1).tolist()
            hits = [
                (attribute.classes[b] == f.labels[attribute.name], f)
                for b, f in zip(best, faces, strict=True)
                if attribute.name in f.labels
            ]
            figures |= _shares(f"world/obeyed/{attribute.name}", [hit for hit, _ in hits])
            figures |= _shares(f"world/obeyed_held_out/{attribute.name}", [hit for hit, face in hits if face.held_out])
    aged = [(AGE_WORDS.index(face.labels["age"]), i) for i, face in enumerate(faces) if "age" in face.labels]
    probed = readings["age"][torch.tensor([i for _, i in aged])].tolist()
    figures["world/age_spearman"] = round(float(spearmanr([word for word, _ in aged], probed).statistic), 4)
    figures["world/age_spearman/n"] = float(len(aged))
    return figures, images


def _shares(name: str, hits: list[bool]) -> dict[str, float]:
    return {name: round(sum(hits) / max(len(hits), 1), 4), f"{name}/n": float(len(hits))}
