"""Image features to store."""

import numpy as np

from model.image_features import ImageFeatures, ImageStatistics

EMBEDDING = np.array([0.6, 0.8, 0.0, 0.0])
FEATURES = ImageFeatures(
    ImageStatistics.of(np.full((30, 40, 3), 41, np.uint8), (0.2, 0.1)),
    EMBEDDING.astype("<f2").tobytes(),
)
