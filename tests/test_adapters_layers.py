"""Which layers are adapted, counted on the UNet of SDXL base 1.0, and the adapters that start on them."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from experiments.tiny_faces.pipeline import PipelineSize, build_unet
from slider_lightning.adapters import LAYER_SETS, AdapterConfig, Slider, adapted_layers
from slider_lightning.adapters.layers import layer_key, layer_path
from slider_lightning.errors import InputError

SDXL_BASE_UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# REFERENCE.md, "modules adapted on SDXL"; the parameters are exact where the table rounds to 0.01 M.
PUBLISHED = {
    "noxattn": (346, 4_320_000),
    "xattn": (280, 3_143_680),
    "selfattn": (280, 2_662_400),
    "full": (626, 7_463_680),
}


@pytest.fixture(scope="module")
def sdxl_unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL_BASE_UNET)


@pytest.mark.parametrize("layer_set", LAYER_SETS)
def test_sdxl_has_the_published_modules_and_parameters(sdxl_unet: UNet2DConditionModel, layer_set: str) -> None:
    slider = Slider(sdxl_unet, AdapterConfig(rank=4, layers=layer_set))
    assert (len(slider.layer_paths), slider.num_parameters()) == PUBLISHED[layer_set]


def test_sets_hold_what_their_names_say(sdxl_unet: UNet2DConditionModel) -> None:
    noxattn, xattn, selfattn, full = (set(adapted_layers(sdxl_unet, layer_set)) for layer_set in LAYER_SETS)
    assert noxattn | xattn == full
    assert not noxattn & xattn
    assert selfattn < noxattn
    assert all(".attn2." in path for path in xattn)
    assert all(".attn1." in path for path in selfattn)
    never = (".ff.", "proj_in", "proj_out", "conv_in", "conv_out", "time_embedding", "add_embedding")
    assert not [path for path in full if any(part in path for part in never)]
    assert sum(path.endswith("time_emb_proj") for path in noxattn) == 17


def test_file_keys_name_each_layer_once_and_lead_back(sdxl_unet: UNet2DConditionModel) -> None:
    paths = list(adapted_layers(sdxl_unet, "full"))
    keys = [layer_key(path) for path in paths]
    assert len(set(keys)) == len(paths)
    assert not [key for key in keys if "." in key]
    assert [layer_path(key) for key in keys] == paths


def test_unknown_layer_set_names_the_known_ones(sdxl_unet: UNet2DConditionModel) -> None:
    with pytest.raises(InputError, match=r"noxattn, xattn, selfattn, full.*'crossattn'"):
        adapted_layers(sdxl_unet, "crossattn")
    with pytest.raises(InputError, match="crossattn"):
        AdapterConfig(layers="crossattn")


def test_network_without_such_layers_is_refused() -> None:
    with pytest.raises(InputError, match="xattn"):
        adapted_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)), "xattn")


@pytest.mark.parametrize("bad", [{"rank": 0}, {"rank": -1}, {"rank": 2.5}, {"alpha": 0.0}, {"alpha": float("nan")}])
def test_rank_and_alpha_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"AdapterConfig\.{next(iter(bad))}"):
        AdapterConfig(**bad)  # type: ignore[arg-type]


def test_seed_alone_decides_the_initial_weights() -> None:
    unet = build_unet(PipelineSize(unet_channels=(32, 64), unet_layers=1, text_width=32, text_width_2=32))
    first = Slider(unet, AdapterConfig(), seed=5).state_dict()
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    second = Slider(unet, AdapterConfig(), seed=5).state_dict()
    other = Slider(unet, AdapterConfig(), seed=6).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    downs = [name for name in first if name.endswith("lora_down")]
    assert downs
    assert all(not torch.equal(first[name], other[name]) for name in downs)
