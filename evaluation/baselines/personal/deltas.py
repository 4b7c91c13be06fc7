"""Changes of the keys and values of every cross-attention layer: what Custom Diffusion trains in the UNet.

W = W0 + scale * delta, for to_k and to_v of every attn2: they read the prompt, and nothing else in the UNet does
but the pooled embedding (Kumari et al. 2023, sec. 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slider_lightning.errors import InputError

KEY_VALUE_ENDINGS = (".attn2.to_k", ".attn2.to_v")


def key_value_layers(unet: nn.Module) -> dict[str, nn.Linear]:
    """diffusers path -> layer, for to_k and to_v of every cross-attention, in the order of the UNet's modules."""
    return {
        path: layer
        for path, layer in unet.named_modules()
        if path.endswith(KEY_VALUE_ENDINGS) and isinstance(layer, nn.Linear)
    }


class KeyValueDeltas(nn.Module):
    """The fp32 deltas, held apart from the UNet.

    Args:
        deltas: diffusers path -> change of that layer's weight.
    """

    def __init__(self, deltas: Mapping[str, Float[Tensor, "out dim"]]) -> None:
        super().__init__()
        self.layer_paths = tuple(sorted(deltas))
        self.deltas = nn.ParameterList(nn.Parameter(deltas[path].detach().float().clone()) for path in self.layer_paths)

    @classmethod
    def zero(cls, unet: nn.Module) -> KeyValueDeltas:
        """Deltas that change nothing yet."""
        layers = key_value_layers(unet)
        return cls({path: torch.zeros_like(layer.weight, dtype=torch.float32) for path, layer in layers.items()})

    def weights(self) -> dict[str, nn.Parameter]:
        """diffusers path -> delta."""
        return dict(zip(self.layer_paths, self.deltas, strict=True))

    def check_fits(self, unet: nn.Module) -> None:
        """Raise InputError unless these are deltas of exactly the UNet's cross-attention layers."""
        expected = {path: tuple(layer.weight.shape) for path, layer in key_value_layers(unet).items()}
        found = {path: tuple(delta.shape) for path, delta in self.weights().items()}
        differing = [path for path in (expected | found) if expected.get(path) != found.get(path)]
        if differing:
            path = differing[0]
            raise InputError(
                f"Expected a delta of shape {expected.get(path, 'none')} for layer {path} of the UNet, but got "
                f"{found.get(path, 'none')}; use the file with the model it was trained on."
            )

    @contextmanager
    def applied(self, unet: nn.Module, scale: float = 1.0) -> Iterator[None]:
        """Forwards inside see W0 + scale * delta; the weights themselves are never touched. Gradients flow."""
        layers = key_value_layers(unet)
        with ExitStack() as hooks:
            for path, delta in self.weights().items():
                layer = layers[path]
                scaled = (scale * delta).to(layer.weight.device, layer.weight.dtype)
                hooks.callback(layer.register_forward_hook(partial(_add_delta, scaled)).remove)
            yield


def _add_delta(delta: Tensor, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + F.linear(args[0], delta)
