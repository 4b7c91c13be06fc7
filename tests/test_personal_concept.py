"""What Custom Diffusion changes in the UNet, and the files of learned concepts."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from evaluation.baselines.personal import ConceptMetadata, LearnedConcept, load_concept, save_concept
from evaluation.baselines.personal.deltas import KeyValueDeltas, key_value_layers
from evaluation.baselines.personal.files import METADATA_KEY
from slider_lightning.backbone import Backbone
from slider_lightning.errors import InputError
from tests.personal_training import TOKEN, settings, stir
from tests.test_adapters_layers import SDXL_BASE_UNET

KINDS = ("textual_inversion", "custom_diffusion")


def prediction(backbone: Backbone) -> torch.Tensor:
    latents = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.predict_noise(latents, 300, backbone.encode_prompts(["a man", "a woman, smiling"]))


def concept_of(backbone: Backbone, kind: str) -> LearnedConcept:
    return stir(settings(kind).initial_concept(backbone))


def test_the_layers_are_keys_and_values_of_every_cross_attention(backbone: Backbone) -> None:
    width = backbone.unet.config.cross_attention_dim
    layers = key_value_layers(backbone.unet)
    blocks = [name for name, _ in backbone.unet.named_modules() if name.endswith("attn2")]
    assert blocks
    assert set(layers) == {f"{block}.{part}" for block in blocks for part in ("to_k", "to_v")}
    assert all(layer.in_features == width for layer in layers.values())


def test_on_sdxl_they_are_140_layers_of_341_million_weights() -> None:
    with torch.device("meta"):
        layers = key_value_layers(UNet2DConditionModel(**SDXL_BASE_UNET))
    assert len(layers) == 140
    assert sum(layer.weight.numel() for layer in layers.values()) == 2 * 2048 * (10 * 640 + 60 * 1280)


def test_new_deltas_change_nothing(backbone: Backbone) -> None:
    before = prediction(backbone)
    with KeyValueDeltas.zero(backbone.unet).applied(backbone.unet):
        assert torch.equal(prediction(backbone), before)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_deltas_are_a_change_of_the_weights_times_the_scale(backbone: Backbone, scale: float) -> None:
    deltas = concept_of(backbone, "custom_diffusion").deltas
    assert deltas is not None
    bare = prediction(backbone)
    with deltas.applied(backbone.unet, scale):
        found = prediction(backbone)
    assert torch.equal(prediction(backbone), bare)
    backbone.unet = copy.deepcopy(backbone.unet)
    with torch.no_grad():
        for path, delta in deltas.weights().items():
            backbone.unet.get_submodule(path).weight.add_(delta, alpha=scale)
    torch.testing.assert_close(found, prediction(backbone))
    assert (found - bare).abs().max() > 1e-3


def test_an_exception_inside_takes_the_deltas_off(backbone: Backbone) -> None:
    before = prediction(backbone)
    concept = concept_of(backbone, "custom_diffusion")
    with pytest.raises(KeyError), concept.applied(backbone.unet):
        raise KeyError
    assert torch.equal(prediction(backbone), before)


def test_deltas_of_another_unet_are_refused(backbone: Backbone) -> None:
    weights = KeyValueDeltas.zero(backbone.unet).weights()
    path = next(iter(weights))
    for changed in ({**weights, path: torch.zeros(2, 3)}, {**weights, "mid_block.other.attn2.to_k": torch.zeros(2, 3)}):
        with pytest.raises(InputError, match="model it was trained on"):
            KeyValueDeltas(changed).check_fits(backbone.unet)
    with pytest.raises(InputError, match=path):
        KeyValueDeltas({name: delta for name, delta in weights.items() if name != path}).check_fits(backbone.unet)
    KeyValueDeltas(weights).check_fits(backbone.unet)


def saved(backbone: Backbone, kind: str, path: Path) -> tuple[LearnedConcept, ConceptMetadata]:
    concept, metadata = concept_of(backbone, kind), settings(kind).metadata("a model", backbone.fingerprint)
    save_concept(path, concept, metadata)
    return concept, metadata


@pytest.mark.parametrize("kind", KINDS)
def test_files_round_trip(backbone: Backbone, tmp_path: Path, kind: str) -> None:
    concept, metadata = saved(backbone, kind, tmp_path / "learned.safetensors")
    for source in (tmp_path, tmp_path / "learned.safetensors"):
        loaded, found = load_concept(source)
        assert found == metadata
        assert (loaded.kind, loaded.token) == (kind, TOKEN)
        assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in concept.state_dict().items())
        assert loaded.named_tensors().keys() == concept.named_tensors().keys()
    names = set(load_file(tmp_path / "learned.safetensors"))
    deltas = set(key_value_layers(backbone.unet)) if kind == "custom_diffusion" else set()
    assert names == {"clip_l", "clip_g"} | deltas


def test_a_damaged_file_is_named(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "learned.safetensors"
    saved(backbone, "custom_diffusion", path)
    content = bytearray(path.read_bytes())
    for harmed in (bytes(content[:-8]), bytes([*content[:-1], content[-1] ^ 1])):
        path.write_bytes(harmed)
        with pytest.raises(InputError, match=r"learned\.safetensors to be a whole file"):
            load_concept(path)


def test_other_files_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "learned.safetensors"
    with pytest.raises(InputError, match="there is none; train it"):
        load_concept(path)
    save_file({"clip_l": torch.zeros(1, 32)}, path)
    with pytest.raises(InputError, match="header does not say so"):
        load_concept(path)


def test_a_header_that_contradicts_the_tensors_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "learned.safetensors"
    concept, metadata = saved(backbone, "textual_inversion", path)
    with pytest.raises(ValueError, match="metadata of a textual_inversion"):
        save_concept(path, concept, settings("custom_diffusion").metadata("a model", ""))
    for change in ({"kind": "custom_diffusion"}, {"kind": "dreambooth"}, {"num_vectors": 2}, {"colour": "red"}):
        _, digest = read_header(path)
        header = {METADATA_KEY: json.dumps({**vars(metadata), **change}), **digest}
        save_file(concept.named_tensors(), tmp_path / "changed.safetensors", metadata=header)
        with pytest.raises(InputError, match="header does not fit"):
            load_concept(tmp_path / "changed.safetensors")


def read_header(path: Path) -> tuple[str, dict[str, str]]:
    """The metadata, and what else the header holds."""
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    return header.pop(METADATA_KEY), header
