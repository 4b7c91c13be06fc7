"""The names of layers in files, held against diffusers' own conversions of SDXL checkpoints and of kohya's files."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.utils import convert_unet_state_dict_to_peft

from slider_lightning.adapters import LAYER_SETS, AdapterConfig, Slider, adapted_layers, load_slider
from slider_lightning.adapters.blocks import SDXL_BLOCKS, BlockStructure
from slider_lightning.adapters.layers import layer_kind
from slider_lightning.adapters.layouts import named_tensors
from slider_lightning.config import ROOT
from slider_lightning.errors import InputError
from tests.test_adapters_layers import PUBLISHED, SDXL_BASE_UNET

TINY_FACES = json.loads((ROOT / "assets/tiny_faces/pipeline/unet/config.json").read_text())
SHAPES = {
    "sdxl": SDXL_BASE_UNET,
    "tiny_faces": TINY_FACES,
    "four blocks": {
        **TINY_FACES,
        "block_out_channels": [16, 32, 32, 32],
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
}


@pytest.fixture(scope="module", params=SHAPES)
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(SHAPES[request.param])


@pytest.fixture(scope="module")
def sdxl_unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL_BASE_UNET)


def as_checkpoint(names: Iterable[str]) -> dict[str, str]:
    """An SDXL checkpoint whose "weights" are their own names; conv_in is there since conversions count the blocks."""
    prefix, kinds = "model.diffusion_model.", ("weight", "bias")
    return {f"{prefix}{name}.{kind}": name for name in (*names, "input_blocks.0.0") for kind in kinds}


def test_original_names_are_those_that_diffusers_converts_checkpoints_by(unet: UNet2DConditionModel) -> None:
    blocks, paths = BlockStructure.of_config(unet.config), list(adapted_layers(unet, "full"))
    originals = {path: blocks.original_path(path) for path in paths}
    config = {**unet.config, "addition_embed_type": None}  # or it asks for weights that no slider touches
    converted = convert_ldm_unet_checkpoint(as_checkpoint(originals.values()), config)
    weights = {name.removesuffix(".weight"): value for name, value in converted.items() if name.endswith(".weight")}
    assert weights == {**originals, "conv_in": "input_blocks.0.0"}


def test_kohya_keys_are_those_that_diffusers_maps_back(sdxl_unet: UNet2DConditionModel) -> None:
    paths = list(adapted_layers(sdxl_unet, "full"))
    tensors: dict[str, torch.Tensor] = {}
    for number, path in enumerate(paths):
        key = f"lora_unet_{SDXL_BLOCKS.original_path(path)}".replace(".", "_")
        tensors |= {f"{key}.lora_{side}.weight": torch.tensor(number) for side in ("down", "up")}
    state_dict, _ = StableDiffusionXLPipeline.lora_state_dict(tensors, unet_config=sdxl_unet.config)
    assert state_dict.keys() == {name for name in state_dict if name.startswith("unet.")}
    theirs = convert_unet_state_dict_to_peft({name.removeprefix("unet."): t for name, t in state_dict.items()})
    ours = {f"{path}.lora_{side}.weight": number for number, path in enumerate(paths) for side in "AB"}
    assert {name: int(number) for name, number in theirs.items()} == ours


def test_the_names_that_a1111_needs_are_written(sdxl_unet: UNet2DConditionModel) -> None:
    blocks = BlockStructure.of_config(sdxl_unet.config)
    assert blocks == SDXL_BLOCKS
    known = {
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
        ),
        "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
        "mid_block.attentions.0.transformer_blocks.9.attn2.to_out.0": (
            "middle_block.1.transformer_blocks.9.attn2.to_out.0"
        ),
        "up_blocks.2.resnets.2.time_emb_proj": "output_blocks.8.0.emb_layers.1",
    }
    assert {path: blocks.original_path(path) for path in known} == known


@pytest.mark.parametrize("layer_set", LAYER_SETS)
def test_structure_follows_from_the_layers_of_any_set(unet: UNet2DConditionModel, layer_set: str) -> None:
    paths = adapted_layers(unet, layer_set)
    assert BlockStructure.of_layers(paths) == BlockStructure.of_config(unet.config)
    assert len({BlockStructure.of_config(unet.config).original_path(path) for path in paths}) == len(paths)


def test_structure_is_not_guessed_from_a_part_of_the_layers(sdxl_unet: UNet2DConditionModel) -> None:
    paths = list(adapted_layers(sdxl_unet, "noxattn"))
    parts = {
        "no attention": [path for path in paths if ".attn" not in path],
        "no upper attention": [path for path in paths if "up_blocks.0.attentions" not in path],
        "second layers": [path for path in paths if "resnets.1" in path],
        "nothing": [],
    }
    for part in parts.values():
        with pytest.raises(InputError, match="whole layer set"):
            BlockStructure.of_layers(part)


def test_layers_unlike_sdxls_have_no_original_name() -> None:
    for path in (
        "conv_in",
        "down_blocks.3.resnets.0.conv1",
        "down_blocks.0.resnets.0.norm1",
        "down_blocks.0.attentions",
    ):
        assert SDXL_BLOCKS.original_path(path) is None
    for key in ("input_blocks_9_0_in_layers_2", "input_blocks_1_1_transformer_blocks_0_attn1_to_q", "out_2"):
        assert SDXL_BLOCKS.diffusers_path(key) is None
    with pytest.raises(InputError, match="equally many layers"):
        BlockStructure.of_config({**SDXL_BASE_UNET, "layers_per_block": [2, 2, 3]})


def test_every_adapted_layer_has_a_kind_and_no_other_has(sdxl_unet: UNet2DConditionModel) -> None:
    adapted = set(adapted_layers(sdxl_unet, "full"))
    layers = {path for path, layer in sdxl_unet.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)}
    assert {path for path in layers if layer_kind(path) is not None} == adapted
    kinds = [layer_kind(path) for path in adapted]
    assert [kinds.count(kind) for kind in ("attention", "resnet", "sampler")] == [560, 62, 4]


@pytest.mark.parametrize("layout", ["native", "kohya", "peft"])
@pytest.mark.parametrize("layer_set", ["noxattn", "full"])
def test_every_layout_names_all_published_modules(sdxl_unet: UNet2DConditionModel, layout: str, layer_set: str) -> None:
    slider = Slider(sdxl_unet, AdapterConfig(layers=layer_set))
    names = named_tensors(slider, layout, SDXL_BLOCKS)
    downs = [name for name in names if name.endswith(("lora_down.weight", "lora_A.weight"))]
    assert len(downs) == PUBLISHED[layer_set][0]
    assert sum(tensor.numel() for name, tensor in names.items() if "alpha" not in name) == PUBLISHED[layer_set][1]


def test_released_file_of_sdxl_is_read_whole(tmp_path: Path, sdxl_unet: UNet2DConditionModel) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for path, layer in adapted_layers(sdxl_unet, "noxattn").items():
        key, shape = f"lora_unet_{path.replace('.', '_')}", layer.weight.shape
        tensors[f"{key}.lora_down.weight"] = torch.zeros(4, *shape[1:], dtype=torch.bfloat16)
        tensors[f"{key}.lora_up.weight"] = torch.zeros(shape[0], 4, *[1] * (len(shape) - 2), dtype=torch.bfloat16)
        tensors[f"{key}.alpha"] = torch.tensor(1.0, dtype=torch.bfloat16)
    torch.save(tensors, tmp_path / "age_alpha8_rank16_full.pt")
    slider, metadata = load_slider(tmp_path / "age_alpha8_rank16_full.pt")
    slider.check_fits(sdxl_unet)
    assert (len(slider.layer_paths), slider.num_parameters()) == PUBLISHED["noxattn"]
    assert (metadata.rank, metadata.alpha, metadata.layers) == (4, 1.0, "noxattn")
