"""Views: an image is corrupted in a seeded, recorded way before the model sees it. torch and torchvision only."""

from augment.auto import AutoAugment, RandAugment
from augment.colour import (
    Autocontrast,
    ColorJitter,
    Equalize,
    GaussianBlur,
    Grayscale,
    Invert,
    Posterize,
    Sharpness,
    Solarize,
    SticJitter,
)
from augment.combine import Chain, Mixture, Several, SticCorruption
from augment.contrastive import Byol, MocoSeva, MocoV2, SimClr
from augment.diffusion import Diffusion
from augment.geometric import (
    Affine,
    CenterCrop,
    LowResolution,
    Pad,
    Perspective,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    Rotation,
)
from augment.occlusion import Black, BlockMask, Crop, PixelMask
from augment.registry import spec_of, view_from_spec, view_names
from augment.view import Identity, View, build, generator_for

__all__ = [
    "Affine", "AutoAugment", "Autocontrast", "Black", "BlockMask", "Byol", "CenterCrop", "Chain", "ColorJitter",
    "Crop", "Diffusion", "Equalize", "GaussianBlur", "Grayscale", "Identity", "Invert", "LowResolution", "Mixture",
    "MocoSeva", "MocoV2", "Pad", "Perspective", "PixelMask", "Posterize", "RandAugment", "RandomCrop", "RandomFlip",
    "RandomResizedCrop", "Rotation", "Several", "Sharpness", "SimClr", "Solarize", "SticCorruption", "SticJitter",
    "View", "build", "generator_for", "spec_of", "view_from_spec", "view_names",
]  # fmt: skip
