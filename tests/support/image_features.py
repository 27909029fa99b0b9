"""Image features to store."""

import numpy as np

from model.image_features import ImageFeatures
from model.image_statistics import measure_image

EMBEDDING = np.array([0.6, 0.8, 0.0, 0.0])
FEATURES = ImageFeatures.of(
    measure_image(np.full((30, 40, 3), 41, np.uint8), (0.2, 0.1)), EMBEDDING
)
