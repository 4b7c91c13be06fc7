"""Textual Inversion and Custom Diffusion as methods of a grid."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from evaluation.baselines.personal import CONCEPT_FILE, CustomDiffusion, TextualInversion, load_concept, save_concept
from evaluation.grids import BaseMethod, GridRow
from slider_lightning.backbone import Backbone, SamplerConfig, load_backbone
from slider_lightning.errors import InputError
from tests.personal_training import TOKEN, settings, stir

ROWS = [GridRow("image of a man", "a man", 5), GridRow("a woman", "a woman", 6), GridRow("a woman", "a woman", 7)]
SAMPLER = SamplerConfig(num_inference_steps=3, guidance_scale=3.0, start_timestep=500)
METHODS = {"textual_inversion": TextualInversion, "custom_diffusion": CustomDiffusion}


@pytest.fixture(scope="module")
def runs(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run folders whose concepts were stirred well: method -> folder."""
    backbone, folder = load_backbone(str(pipeline_folder)), tmp_path_factory.mktemp("runs")
    for kind in METHODS:
        concept = stir(settings(kind).initial_concept(backbone), std=0.3)
        save_concept(folder / kind / CONCEPT_FILE, concept, settings(kind).metadata("m", backbone.fingerprint))
    return {kind: str(folder / kind) for kind in METHODS}


def generate(backbone: Backbone, method, scales: list[float], sampler: SamplerConfig = SAMPLER) -> torch.Tensor:
    return method.generate(backbone, ROWS, scales, sampler, batch_size=2)


def base_images(backbone: Backbone) -> torch.Tensor:
    return BaseMethod().generate(backbone, ROWS, [0.0], SAMPLER, batch_size=2)


@pytest.mark.parametrize("kind", METHODS)
def test_images_are_those_of_the_pipeline_with_the_learned_values_written_in(runs, pipeline_folder, backbone, kind):
    concept, _ = load_concept(runs[kind])
    pipeline = StableDiffusionXLPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for tensor, encoder, tokenizer in (
        (concept.vectors.clip_l, pipeline.text_encoder, pipeline.tokenizer),
        (concept.vectors.clip_g, pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        state = {TOKEN: tensor.detach()}
        pipeline.load_textual_inversion(state, token=TOKEN, text_encoder=encoder, tokenizer=tokenizer)
    scale = 1.0 if concept.deltas is None else 0.5
    with torch.no_grad():
        for path, delta in concept.deltas.weights().items() if concept.deltas is not None else ():
            pipeline.unet.get_submodule(path).weight.add_(delta, alpha=scale)
    found = generate(backbone, METHODS[kind](runs[kind]), [scale])
    assert found.shape == (3, 1, 3, 64, 64)
    for row, image in zip(ROWS, found[:, 0], strict=True):
        generator = torch.Generator().manual_seed(row.seed)
        options = {"num_inference_steps": 3, "guidance_scale": 3.0, "generator": generator, "output_type": "np"}
        expected = pipeline(f"{row.prompt}, {TOKEN}", **options).images[0]
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=2e-4)


def test_any_positive_scale_of_textual_inversion_is_the_same_image(runs, backbone) -> None:
    images = generate(backbone, TextualInversion(runs["textual_inversion"]), [0.5, 1.0, 7.0])
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert (images[:, 0] - base_images(backbone)[:, 0]).abs().max() > 0.01
    assert not torch.equal(images[1], images[2])


def test_the_scale_of_custom_diffusion_multiplies_the_deltas(runs, backbone) -> None:
    method = CustomDiffusion(runs["custom_diffusion"])
    images = generate(backbone, method, [0.5, 1.0])
    assert not torch.equal(images[:, 0], images[:, 1])
    with torch.no_grad():
        for delta in method.concept.deltas.parameters():
            delta.mul_(0.5)
    torch.testing.assert_close(generate(backbone, method, [1.0])[:, 0], images[:, 0])


@pytest.mark.parametrize("kind", METHODS)
def test_arguments_alone_decide_and_the_model_is_left_as_it_was_found(runs, backbone, kind, monkeypatch) -> None:
    before = base_images(backbone)
    method = METHODS[kind](runs[kind])
    first = generate(backbone, method, [1.0])
    assert torch.equal(base_images(backbone), before)
    torch.manual_seed(1)
    later = SamplerConfig(num_inference_steps=3, guidance_scale=3.0, start_timestep=900)
    assert torch.equal(generate(backbone, METHODS[kind](runs[kind]), [1.0], later), first), (
        "start_timestep plays no part"
    )
    monkeypatch.setattr(backbone, "decode", lambda latents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(backbone, method, [1.0])
    monkeypatch.undo()
    assert torch.equal(base_images(backbone), before)
    assert not any(module._forward_hooks for module in backbone.unet.modules())


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("scales", [[-1.0], [1.0, 0.0]])
def test_scales_that_are_not_above_0_are_refused(runs, backbone, kind, scales) -> None:
    with pytest.raises(InputError, match=f"scales above 0 for {kind}"):
        generate(backbone, METHODS[kind](runs[kind]), scales)


def test_what_the_images_depend_on_is_plain_and_follows_the_values(runs) -> None:
    methods = [METHODS[kind](run) for kind, run in runs.items()]
    methods.append(TextualInversion(runs["textual_inversion"], template="{token} {prompt}"))
    assert [method.name for method in methods] == ["textual_inversion", "custom_diffusion", "textual_inversion"]
    known = [method.depends_on() for method in methods]
    assert all(known[i] != known[j] for i in range(3) for j in range(i))
    assert all(isinstance(value, str) for one in known for value in one.values())
    assert runs["textual_inversion"] not in str(known)
    assert TextualInversion(f"{runs['textual_inversion']}/{CONCEPT_FILE}").depends_on() == known[0]


def test_bad_methods_are_refused(runs, tmp_path, backbone) -> None:
    with pytest.raises(InputError, match="holds a custom_diffusion"):
        TextualInversion(runs["custom_diffusion"])
    with pytest.raises(InputError, match="there is none"):
        CustomDiffusion(str(tmp_path))
    with pytest.raises(InputError, match="template"):
        TextualInversion(runs["textual_inversion"], template="{prompt}")
    backbone.free_text_encoders()
    with pytest.raises(InputError, match="freed"):
        generate(backbone, TextualInversion(runs["textual_inversion"]), [1.0])


def test_another_base_model_is_named_in_a_warning(runs, backbone, caplog) -> None:
    backbone.fingerprint, backbone.name = "another", "another model"
    with caplog.at_level(logging.WARNING):
        generate(backbone, TextualInversion(runs["textual_inversion"]), [1.0])
    assert "was trained on m, not on another model" in caplog.text
