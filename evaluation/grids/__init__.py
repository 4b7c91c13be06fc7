"""Grids of images: prompts x seeds x scales of a method, made once, kept in a folder, read back verified."""

from evaluation.grids.grid import GridImage, ImageGrid, check_same_rows
from evaluation.grids.make import base_grid, make_grid
from evaluation.grids.method import BaseMethod, Method
from evaluation.grids.reading import image_files, read_image_folder
from evaluation.grids.sliders import SliderMethod
from evaluation.grids.spec import GridRow, GridSpec, PromptSet

__all__ = [
    "BaseMethod",
    "GridImage",
    "GridRow",
    "GridSpec",
    "ImageGrid",
    "Method",
    "PromptSet",
    "SliderMethod",
    "base_grid",
    "check_same_rows",
    "image_files",
    "make_grid",
    "read_image_folder",
]
