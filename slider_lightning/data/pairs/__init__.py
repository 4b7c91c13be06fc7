"""Image pairs: where they come from, how they become images of the model's sizes, and their latents."""

from slider_lightning.data.pairs.batches import PairBatch, PairDataModule, PairsConfig
from slider_lightning.data.pairs.buckets import Placement, bucket_for, buckets, place
from slider_lightning.data.pairs.latents import LatentTwins, encode_twins, twins_digest
from slider_lightning.data.pairs.pictures import PictureError, open_picture
from slider_lightning.data.pairs.sources import LevelFolder, PairSource, PairTable, Twins, check_twins

__all__ = [
    "LatentTwins",
    "LevelFolder",
    "PairBatch",
    "PairDataModule",
    "PairSource",
    "PairTable",
    "PairsConfig",
    "PictureError",
    "Placement",
    "Twins",
    "bucket_for",
    "buckets",
    "check_twins",
    "encode_twins",
    "open_picture",
    "place",
    "twins_digest",
]
