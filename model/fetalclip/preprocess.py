"""FetalCLIP's preprocessing, the one door for training and serving: pictures and texts to tensors.

As published: a black square of the longer side around the picture, antialiased bicubic to 224,
CLIP's normalisation. Pixels are RGB from the reader on; nothing here swaps channels.
"""

import gzip
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTokenizer

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from model.fetalclip.network import Architecture
from model.spatialclip.preprocess import MEAN, STD

_STRAIGHT = str.maketrans("‘’“”", "''\"\"")
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def square(pixels: Pixels) -> Pixels:
    """(H, W, 3) uint8 -> (M, M, 3), M = max(H, W): the picture in the middle of a black square, an
    odd pixel to the right and below."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def resize(pixels: Pixels, size: int) -> Pixels:
    """(M, M, 3) uint8 -> (size, size, 3) by Pillow's bicubic filter, which is antialiased."""
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def images(pictures: Sequence[Pixels], size: int) -> Tensor:
    """RGB pictures (H, W, 3) uint8, each of its own size -> (B, 3, size, size), CLIP-normalised."""
    squares = np.stack([resize(square(each), size) for each in pictures])
    stacked = torch.from_numpy(squares).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    return (stacked - mean) / std


class TextEncoder:
    """Texts to tokens by CLIP's byte pairs; `tokenizer` is transformers'."""

    def __init__(self, tokenizer: Any, architecture: Architecture) -> None:
        self.tokenizer = tokenizer
        self.architecture = architecture
        ids = tokenizer.convert_tokens_to_ids([_BEGIN, _END])
        if ids != [architecture.begin, architecture.end]:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"the tokenizer is another model's: texts begin and end with tokens {ids},"
                f" here with {[architecture.begin, architecture.end]}",
            )

    @classmethod
    def load(cls, folder: Path, architecture: Architecture) -> "TextEncoder":
        """The tokenizer of a model's folder, without any hub. Raises QCError BUNDLE_INCOMPLETE."""
        if not any((folder / name).is_file() for name in ("tokenizer.json", "merges.txt")):
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{folder} has no tokenizer: give qc-model fetalclip convert --vocabulary",
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"{folder}: its tokenizer cannot be read ({type(error).__name__})",
            ) from None
        return cls(tokenizer, architecture)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """(B, L) token numbers, L at most the text positions: begin, text, end, zeros.

        Too long a text is cut and keeps its end.
        """
        most = self.architecture.context
        rows: list[list[int]] = []
        for text in texts:
            inner = self.tokenizer(_clean(text), add_special_tokens=False)["input_ids"]
            rows.append([self.architecture.begin, *inner[: most - 2], self.architecture.end])
        tokens = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.long)
        for row, numbers in zip(tokens, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens


def read_vocabulary(path: Path, vocabulary: int) -> Any:
    """The tokenizer of CLIP's list of byte pairs (bpe_simple_vocab_16e6.txt.gz, as PyPI's
    open-clip-torch has it), for that many tokens: a letter and a letter at a word's end for each
    byte, the first pairs of the list, begin and end.

    Raises QCError BUNDLE_MISMATCH on a file with too few pairs.
    """
    # Printable bytes come first in CLIP's numbering; the letters of the others are above 255.
    letters = sorted(ByteLevel.alphabet())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters)]
    count = vocabulary - len(symbols) - 2
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        # The first line is the list's version.
        merges = [(first, second) for first, second in map(str.split, lines[1 : count + 1])]
    except (ValueError, EOFError, gzip.BadGzipFile):
        merges = []
    if count < 0 or len(merges) != count:
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"{path.name} is not CLIP's list of byte pairs, gzipped, with {count} pairs at least",
        )
    tokens = [*symbols, *map("".join, merges), _BEGIN, _END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        model_max_length=vocabulary,
    )


def _clean(text: str) -> str:
    """Entities read, quotes straight, white space single, as open_clip does; the tokenizer lowers
    the case. Garbled encodings are not guessed at: prompt files are UTF-8.
    """
    return " ".join(html.unescape(html.unescape(text)).translate(_STRAIGHT).split())
