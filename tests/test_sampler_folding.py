"""When sampling folds sliders into the weights, and how often."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import Backbone, SamplerConfig, initial_noise, load_backbone, sample


def random_slider(backbone: Backbone) -> Slider:
    """A slider whose lora_up is not zero, so that it changes images."""
    slider, generator = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0)), torch.Generator().manual_seed(0)
    for name, parameter in slider.named_parameters():
        if name.endswith("lora_up"):
            torch.nn.init.normal_(parameter.data, std=0.3, generator=generator)
    return slider


def sampled(backbone: Backbone, bank: SliderBank, columns: Tensor, seeds: range, config: SamplerConfig) -> Tensor:
    """Every seed at every row of scales, the seed's rows side by side."""
    rows = [seed for seed in seeds for _ in columns]
    return sample(
        backbone,
        bank,
        backbone.encode_prompts(["a photo of an old man"] * len(rows)),
        backbone.encode_negative_prompt(),
        initial_noise(backbone.latent_shape, rows),
        columns.repeat(len(seeds), 1),
        config,
        branches=len(columns),
        batch_size=4,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_column_is_folded_once_where_that_is_exact(
    pipeline_folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(str(pipeline_folder), dtype=dtype)
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    columns, folded = torch.tensor([[-1.0], [0.5], [2.0]]), []
    real = bank.folded
    monkeypatch.setattr(bank, "folded", lambda row: (folded.append(row.tolist()), real(row))[1])
    sampled(backbone, bank, columns, range(9), SamplerConfig(num_inference_steps=5))
    assert folded == (columns.tolist() if dtype == "float32" else [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folding_is_chosen(pipeline_folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(str(pipeline_folder), dtype=dtype)
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    columns, latents, folds = torch.tensor([[-1.0], [2.0]]), {}, {}
    real = bank.folded
    for fold in ("exact", "always", "never"):
        calls: list[Tensor] = []
        monkeypatch.setattr(bank, "folded", lambda row, calls=calls: (calls.append(row), real(row))[1])
        latents[fold] = sampled(backbone, bank, columns, range(2), SamplerConfig(3, 3.0, fold=fold))
        folds[fold] = len(calls)
    assert folds == {"exact": 0, "always": 2, "never": 0}
    assert torch.equal(latents["exact"], latents["never"])
    difference = (latents["always"] - latents["never"]).abs()
    if dtype == "float32":
        assert difference.max() <= 1e-4 * latents["never"].abs().max()
    else:
        assert 0 < difference.mean() < 0.1 * latents["never"].abs().mean()
