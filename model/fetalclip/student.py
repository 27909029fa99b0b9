"""Small CLIPs that a FetalCLIP can teach: of its tokens, its picture and its layout, so that every
command that takes a FetalCLIP folder takes them."""

from dataclasses import replace
from enum import StrEnum

from model.fetalclip.network import Architecture


class StudentSize(StrEnum):
    """Of the image tower; ViT-Ti and ViT-S of Touvron et al. 2021 (arXiv 2012.12877)."""

    TINY = "tiny"
    SMALL = "small"


_SIZES = {StudentSize.TINY: (192, 256, 4), StudentSize.SMALL: (384, 384, 6)}
"""Widths of the image and of the text tower, and the latter's heads, which are its blocks too."""
_BLOCKS, _PATCH = 12, 16


def student_architecture(size: StudentSize, teacher: Architecture) -> Architecture:
    """The student's sizes. Patches are of 16 pixels where the teacher's picture allows it."""
    patch = teacher.patch if teacher.image % _PATCH else _PATCH
    vision_width, text_width, heads = _SIZES[size]
    return replace(
        teacher,
        embed_dim=text_width,
        vision_width=vision_width,
        vision_layers=_BLOCKS,
        patch=patch,
        text_width=text_width,
        text_heads=heads,
        text_layers=heads,
    )
