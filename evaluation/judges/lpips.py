"""LPIPS with AlexNet as a judge: torchmetrics' network, its trunk from a file."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _NoTrainLpips
from torchvision.models import AlexNet_Weights

from evaluation.judges.weights import find_weights, read_weights
from evaluation.metrics.lpips import lpips
from slider_lightning.errors import InputError

ALEXNET = "torchvision's AlexNet"


class LpipsDistance(nn.Module):
    """LPIPS (AlexNet) at one size.

    Args:
        weights: torchvision's AlexNet as a torch or safetensors file; None means torch's cache.
        size: Side in pixels that both images are resized to, 64 in the released protocol; None is their native size.

    Raises:
        InputError: If the weights are absent, damaged or not AlexNet's.
    """

    def __init__(self, weights: str | None = None, size: int | None = 64) -> None:
        super().__init__()
        self.name = f"LPIPS (AlexNet, {'native size' if size is None else f'{size} px'})"
        self.size = size
        self.network = lpips_network(weights)

    def forward(self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """LPIPS of each pair of images in [0, 1]; errors as of `evaluation.metrics.lpips.lpips`."""
        return lpips(first, second, self.network, self.size)


def lpips_network(weights: str | None = None) -> nn.Module:
    """torchmetrics' LPIPS network with AlexNet, frozen: its linear heads, the trunk's weights from a file.

    torchmetrics' public classes would download the trunk, so its network is built with a random one, which is then
    filled here.

    Args:
        weights: torchvision's AlexNet as a torch or safetensors file; None means torch's cache.

    Raises:
        InputError: If the weights are absent, damaged or not AlexNet's.
    """
    path = find_weights(weights, AlexNet_Weights.DEFAULT.url, ALEXNET)
    state = read_weights(path, ALEXNET)
    network = _NoTrainLpips(net="alex", pnet_rand=True)
    try:
        for stage in network.net.children():
            stage.load_state_dict({name: state[f"features.{name}"] for name in stage.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"Expected {path} to hold the weights of {ALEXNET}, but it holds those of another network; fetch them from "
            f"{AlexNet_Weights.DEFAULT.url}."
        ) from error
    return network.float().requires_grad_(False)
