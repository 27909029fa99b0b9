"""The spatial branch: from the layout of the detections, 13 numbers a box, to one feature.

After the description of SpatialCLIP. Boxes are x, y, w, h (top-left corner) in the letterboxed
picture, 0..1; everywhere `mask` is True for a box and False for padding.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from detector.anatomy import LABELS

FEATURES = 13
# A side shorter than this share of the picture (a tenth of a pixel of 224) has no useful logarithm.
_LEAST_SIDE = 5e-4
_LEAST_DISTANCE = 1e-6  # Closer centres have no direction.


def usable(boxes: Tensor, mask: Tensor) -> Tensor:
    """(B, N) mask of the boxes that are finite and keep an area inside the picture."""
    x0, y0, x1, y1 = _corners(boxes)
    wide = (x1 - x0 >= _LEAST_SIDE) & (y1 - y0 >= _LEAST_SIDE)
    return mask & wide & boxes.isfinite().all(-1)


def geometry(boxes: Tensor, confidences: Tensor, mask: Tensor) -> Tensor:
    """The 13 features of each box: (B, N, 4), (B, N), (B, N) -> (B, N, 13).

    x, y, w, h; log area; log w/h; distance of the centre from the picture's, its sine and cosine;
    distance to the nearest other box's centre, its sine and cosine; confidence. A direction
    without a length (lone box, equal centres) is 0, 0. Boxes are cut to the picture; those of no
    area count as padding, and padding is all zero.
    """
    mask = usable(boxes, mask)
    x0, y0, x1, y1 = (side.masked_fill(~mask, 0.0) for side in _corners(boxes))
    w, h = (x1 - x0).clamp_min(_LEAST_SIDE), (y1 - y0).clamp_min(_LEAST_SIDE)
    centres = torch.stack(((x0 + x1) / 2, (y0 + y1) / 2), dim=-1)
    radius, sine, cosine = _polar(centres - 0.5)
    features = torch.stack(
        (
            *(x0, y0, w, h),
            torch.log(w * h + 1e-8),
            torch.log(w / h),
            *(radius, sine, cosine),
            *_polar(_to_nearest(centres, mask)),
            confidences.masked_fill(~mask, 0.0),
        ),
        dim=-1,
    )
    return features.masked_fill(~mask.unsqueeze(-1), 0.0)


class SpatialEncoder(nn.Module):
    """A set of labelled boxes -> one feature of unit length.

    The class token stands at position 0, always; boxes have no order, so there is no position
    code. Confidence enters once, as the 13th feature. Without boxes the class token alone speaks:
    "nothing found" is a learned answer.
    """

    def __init__(
        self,
        dim: int = 768,
        labels: int = len(LABELS),
        label_dim: int = 192,
        layers: int = 2,
        heads: int = 8,
        ffn: int = 2048,
        dropout: float = 0.1,
        token_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.geometry_projection = nn.Linear(FEATURES, dim - label_dim)
        self.label_embedding = nn.Embedding(labels, label_dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, heads, ffn, dropout, batch_first=True)
        # Nested tensors would change the length of what comes out with the padding.
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, boxes: Tensor, labels: Tensor, confidences: Tensor, mask: Tensor) -> Tensor:
        """(B, N, 4), (B, N) int, (B, N), (B, N) bool -> (B, dim), of unit length."""
        mask = usable(boxes, mask)
        if self.training and self.token_dropout:
            # A dropped box is hidden from attention, not shown as zeros.
            mask = mask & (torch.rand_like(confidences) >= self.token_dropout)
        placed = self.geometry_projection(geometry(boxes, confidences, mask))
        named = self.label_embedding(labels.masked_fill(~mask, 0))
        tokens = self.mlp(torch.cat((placed, named), dim=-1))
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1)
        padding = pad(~mask, (1, 0), value=False)
        encoded = self.transformer(tokens, src_key_padding_mask=padding)
        return normalize(self.norm(encoded[:, 0]), dim=-1)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y, w, h = boxes.unbind(-1)
    return x.clamp(0, 1), y.clamp(0, 1), (x + w).clamp(0, 1), (y + h).clamp(0, 1)


def _polar(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length, sine and cosine of (..., 2) vectors; all 0 where there is no length."""
    length = vectors.square().sum(-1).sqrt()
    unit = vectors / length.clamp_min(_LEAST_DISTANCE).unsqueeze(-1)
    none = length < _LEAST_DISTANCE
    return (
        length.masked_fill(none, 0.0),
        unit[..., 1].masked_fill(none, 0.0),
        unit[..., 0].masked_fill(none, 0.0),
    )


def _to_nearest(centres: Tensor, mask: Tensor) -> Tensor:
    """(B, N, 2) vectors to the nearest other box's centre; zero for padding and lone boxes."""
    count = centres.shape[1]
    if count == 0:
        return centres
    apart = centres.unsqueeze(1) - centres.unsqueeze(2)
    allowed = mask.unsqueeze(1) & mask.unsqueeze(2)
    allowed = allowed & ~torch.eye(count, dtype=torch.bool, device=mask.device)
    distance = apart.square().sum(-1).masked_fill(~allowed, torch.inf)
    nearest = distance.argmin(-1)
    vectors = apart.gather(2, nearest[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
    return vectors.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
