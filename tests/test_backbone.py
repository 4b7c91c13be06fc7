"""Loading, freezing, encoding, decoding: against StableDiffusionXLPipeline, and on checkpoints that are not whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from slider_lightning.assets import write_hashes
from slider_lightning.backbone import Backbone, PromptEmbeds, load_backbone
from slider_lightning.errors import InputError

PROMPTS = ["an old man with curly hair, smiling", "", "a person", "gänzlich unknown Wörter"]


@pytest.fixture(scope="module")
def pipeline(pipeline_folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(pipeline_folder, add_watermarker=False)


@pytest.fixture
def folder(pipeline_folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(pipeline_folder, tmp_path / "copy"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_everything_is_frozen_and_in_eval_mode(backbone: Backbone) -> None:
    modules = [backbone.unet, backbone.vae, *(backbone.prompt_encoder.text_encoders or ())]
    assert len(modules) == 4
    assert not any(module.training for part in modules for module in part.modules())
    assert not any(parameter.requires_grad for part in modules for parameter in part.parameters())
    assert backbone.latent_shape == (4, 16, 16)
    assert backbone.resolution == 64


# Prompts


def test_prompt_embeds_are_the_pipelines(backbone: Backbone, pipeline: StableDiffusionXLPipeline) -> None:
    expected, _, expected_pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    embeds = backbone.encode_prompts(PROMPTS)
    assert (embeds.prompt_embeds - expected).abs().max() <= 1e-5
    assert (embeds.pooled_prompt_embeds - expected_pooled).abs().max() <= 1e-5
    assert (embeds.prompt_embeds[0] - embeds.prompt_embeds[2]).abs().max() > 1e-2


@pytest.mark.parametrize("force_zeros", [True, False])
@pytest.mark.parametrize("negative_prompt", [None, "", "poorly drawn"])
def test_negative_embeds_are_the_pipelines(folder: Path, force_zeros: bool, negative_prompt: str | None) -> None:
    change_json(folder / "model_index.json", force_zeros_for_empty_prompt=force_zeros)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    _, expected, _, expected_pooled = pipeline.encode_prompt("a person", negative_prompt=negative_prompt)
    embeds = load_backbone(str(folder)).encode_negative_prompt(negative_prompt)
    assert embeds.prompt_embeds.shape == expected.shape
    assert (embeds.prompt_embeds - expected).abs().max() <= 1e-5
    assert (embeds.pooled_prompt_embeds - expected_pooled).abs().max() <= 1e-5
    assert bool(expected.any()) is not (force_zeros and negative_prompt is None)


def test_an_embedding_does_not_depend_on_its_company(pipeline_folder: Path) -> None:
    together = load_backbone(str(pipeline_folder)).encode_prompts(PROMPTS)
    alone = load_backbone(str(pipeline_folder)).encode_prompts(PROMPTS[2:3])
    assert torch.equal(together.prompt_embeds[2:3], alone.prompt_embeds)


def test_known_prompts_answer_after_the_text_encoders_are_freed(backbone: Backbone) -> None:
    before = backbone.encode_prompts(PROMPTS)
    backbone.free_text_encoders()
    assert torch.equal(backbone.encode_prompts(PROMPTS).prompt_embeds, before.prompt_embeds)
    assert len(backbone.encode_negative_prompt()) == 1
    with pytest.raises(InputError, match="'a stranger'; encode it first"):
        backbone.encode_prompts(["a stranger"])


def test_a_long_prompt_is_refused_with_the_words_that_do_not_fit(backbone: Backbone) -> None:
    words = ["person"] * 75
    assert len(backbone.encode_prompts([" ".join(words)])) == 1
    with pytest.raises(InputError, match=r"at most 77 tokens, but these words do not fit: 'glasses beard'"):
        backbone.encode_prompts([" ".join([*words, "glasses", "beard"])])


def test_rows_of_prompt_embeds() -> None:
    embeds = PromptEmbeds(torch.arange(3.0).view(3, 1, 1), torch.arange(3.0).view(3, 1))
    assert embeds.repeat_interleave(2).pooled_prompt_embeds.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert embeds[1].prompt_embeds.flatten().tolist() == [1]
    assert embeds[::2].pooled_prompt_embeds.flatten().tolist() == [0, 2]
    assert PromptEmbeds.cat([embeds[[2, 0]], embeds[torch.tensor([1])]]).prompt_embeds.flatten().tolist() == [2, 0, 1]
    assert embeds.to(dtype=torch.bfloat16).prompt_embeds.dtype is torch.bfloat16


# The networks


def test_predict_noise_is_the_unets_and_is_counted(backbone: Backbone) -> None:
    latents, embeds = torch.randn(3, 4, 16, 16), backbone.encode_prompts(["a person", "a man", "a woman"])
    timestep = torch.tensor([999, 500, 1])
    time_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 3)
    with torch.no_grad():
        conditions = {"text_embeds": embeds.pooled_prompt_embeds, "time_ids": time_ids}
        expected = backbone.unet(latents, timestep, embeds.prompt_embeds, added_cond_kwargs=conditions).sample
        noise_pred = backbone.predict_noise(latents, timestep, embeds)
        single = backbone.predict_noise(latents[1:2], 500, embeds[1])
    assert torch.equal(noise_pred, expected)
    assert (single - expected[1:2]).abs().max() < 1e-5
    assert backbone.sample_forwards == 4
    with pytest.raises(ValueError, match="one prompt embedding per latent"):
        backbone.predict_noise(latents, timestep, embeds[0])


def test_half_precision_takes_and_gives_float32_latents(pipeline_folder: Path, backbone: Backbone) -> None:
    half = load_backbone(str(pipeline_folder), dtype="bfloat16")
    latents = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        expected = backbone.predict_noise(latents, 500, backbone.encode_prompts(PROMPTS[:2]))
        noise_pred = half.predict_noise(latents, 500, half.encode_prompts(PROMPTS[:2]))
    assert half.dtype is torch.bfloat16
    assert noise_pred.dtype is torch.float32
    assert 0 < (noise_pred - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("force_upcast", [True, False])
def test_the_vae_stays_in_float32_where_it_asks_for_it(folder: Path, force_upcast: bool) -> None:
    change_json(folder / "vae" / "config.json", force_upcast=force_upcast)
    backbone = load_backbone(str(folder), dtype="float16")
    assert backbone.vae.dtype is (torch.float32 if force_upcast else torch.float16)
    assert backbone.unet.dtype is torch.float16
    if force_upcast:
        assert backbone.decode(torch.randn(1, 4, 16, 16, dtype=torch.float16)).dtype is torch.float32


@pytest.mark.parametrize(
    "statistics", [{}, {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [1.0, 2.0, 0.5, 3.0]}]
)
def test_encode_images_inverts_the_decoders_normalization(folder: Path, statistics: dict[str, list[float]]) -> None:
    change_json(folder / "vae" / "config.json", **statistics)
    backbone = load_backbone(str(folder))
    images = torch.rand(2, 3, 64, 64)
    latents = backbone.encode_images(images)
    with torch.no_grad():
        inner = backbone.vae.encode(images * 2 - 1).latent_dist.mode()
        expected = backbone.vae.decode(inner).sample / 2 + 0.5
    assert (backbone.decode(latents) - expected.clamp(0, 1)).abs().max() < 1e-5
    mean = torch.tensor(statistics.get("latents_mean", [0.0] * 4)).view(1, 4, 1, 1)
    std = torch.tensor(statistics.get("latents_std", [1.0] * 4)).view(1, 4, 1, 1)
    assert torch.allclose(latents, (inner - mean) / std * backbone.vae.config.scaling_factor, atol=1e-5)


def test_resolution_sets_latents_and_time_ids(pipeline_folder: Path) -> None:
    backbone = load_backbone(str(pipeline_folder), resolution=32)
    assert backbone.latent_shape == (4, 8, 8)
    with pytest.raises(InputError, match="multiple of 4, but got 30; choose 28"):
        load_backbone(str(pipeline_folder), resolution=30)


# Fingerprint


def test_the_fingerprint_ignores_the_dtype_of_loading_and_the_place(pipeline_folder: Path, folder: Path) -> None:
    change_json(folder / "unet" / "config.json", _diffusers_version="99.0")
    fingerprints = {
        load_backbone(str(path), dtype=dtype).fingerprint
        for path, dtype in [(pipeline_folder, "float32"), (pipeline_folder, "bfloat16"), (folder, "float32")]
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2"])
def test_the_fingerprint_sees_one_retrained_tensor(pipeline_folder: Path, folder: Path, part: str) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    largest = max(tensors, key=lambda name: tensors[name].numel())
    tensors[largest] = tensors[largest] + 1e-3 * torch.randn_like(tensors[largest])
    save_file(tensors, path, metadata={"format": "pt"})
    assert load_backbone(str(folder)).fingerprint != load_backbone(str(pipeline_folder)).fingerprint


def test_the_fingerprint_sees_the_configuration(pipeline_folder: Path, folder: Path) -> None:
    change_json(folder / "vae" / "config.json", scaling_factor=0.5)
    assert load_backbone(str(folder)).fingerprint != load_backbone(str(pipeline_folder)).fingerprint


def test_a_variant_is_loaded_from_its_own_files(folder: Path) -> None:
    plain = load_backbone(str(folder))
    StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder, variant="fp16")
    assert load_backbone(str(folder)).fingerprint == plain.fingerprint
    variant = load_backbone(str(folder), variant="fp16")
    assert variant.fingerprint != plain.fingerprint
    weight, expected = variant.unet.conv_in.weight, plain.unet.conv_in.weight
    assert torch.equal(weight, expected.half().float())
    assert not torch.equal(weight, expected)


# Checkpoints that are not whole


def damage_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def name_another_class(folder: Path) -> None:
    change_json(folder / "model_index.json", _class_name="StableDiffusionPipeline")


def drop_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def truncate_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def garble_header(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"not safetensors at all")


def drop_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def drop_tensor(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith("mlp.fc1.weight")))
    save_file(tensors, path, metadata={"format": "pt"})


def damage_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")


def drop_config(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def drop_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer_2")


def pretend_refiner(folder: Path) -> None:
    change_json(folder / "model_index.json", tokenizer=[None, None], text_encoder=[None, None])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_index, "model_index.json to be a JSON object, but it is damaged"),
        (name_another_class, "to hold an SDXL, but it holds a StableDiffusionPipeline"),
        (drop_index, "no model_index.json"),
        (truncate_weights, r"unet/diffusion_pytorch_model.safetensors to be a whole safetensors file"),
        (garble_header, r"text_encoder/model.safetensors to be a whole safetensors file"),
        (drop_weights, r"weights in .*/vae \(variant None\), but got none"),
        (drop_tensor, r"weights in .*/text_encoder, but its files hold"),
        (damage_config, r"unet/config.json to be JSON, but it is damaged"),
        (drop_config, r"unet/config.json, but it is missing"),
        (drop_tokenizer, "tokenizer_2, but it is missing or empty"),
        (pretend_refiner, "no text_encoder, tokenizer; refiners"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_sentence(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(str(folder))
    assert "\n" not in str(caught.value)


def test_hashes_are_checked_before_anything_is_loaded(folder: Path) -> None:
    write_hashes(folder)
    load_backbone(str(folder))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match=r"scheduler/scheduler_config\.json .*damaged or changed"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "/nowhere/at/all"}, "there is no /nowhere/at/all"),
        ({"path": "tests/nothing_here"}, "there is no tests/nothing_here"),
        ({"path": "no_such_owner_of_models/no_such_sdxl"}, "the hub did not provide it"),
        ({"path": "/nowhere/model.safetensors"}, "no such file"),
        ({"dtype": "float8"}, "one of float32, bfloat16, float16"),
        ({"variant": "fp16"}, "offer the variant 'fp16', but it does not"),
        ({"device": "cuda:99"}, "device that this machine has"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(pipeline_folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(**({"path": str(pipeline_folder)} | arguments))
    assert "\n" not in str(caught.value)


def test_a_damaged_single_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"{}")
    with pytest.raises(InputError, match="whole safetensors file"):
        load_backbone(str(tmp_path / "model.safetensors"))
