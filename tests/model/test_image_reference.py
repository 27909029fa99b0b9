"""What a bundle says of the pictures that calibrated it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import View
from model.image_features import STATISTICS
from model.image_reference import KEY, ImageReference, measured_view
from model.image_statistics import measure_image

PICTURES = [np.full((20, 30, 3), level, np.uint8) for level in (10, 40, 90)]
EMBEDDINGS = np.eye(3, 4)


def reference() -> ImageReference:
    spacings = (None, (0.2, 0.1), (0.2, 0.1))
    statistics = [measure_image(*each) for each in zip(PICTURES, spacings, strict=True)]
    view = measured_view(7, ["a", "b", "a"], statistics, EMBEDDINGS)
    return ImageReference("0" * 64, {View.NT: view})


def test_a_reference_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps({KEY: reference().to_json()}, allow_nan=False))
    read = ImageReference.from_manifest(written)
    assert read is not None
    own = read.views[View.NT]
    assert (read.pictures, read.data_sha256, own.pictures, len(own)) == (3, "0" * 64, 7, 3)
    assert own.group.tolist() == [0, 1, 0]
    assert own.statistics[:, STATISTICS.index("mean")].tolist() == [10, 40, 90]
    spacing = own.statistics[:, STATISTICS.index("spacing")]
    assert np.isnan(spacing[0])
    assert spacing[1:].tolist() == [0.1, 0.1]
    assert own.embeddings.tolist() == EMBEDDINGS.tolist()


def test_a_bundle_without_the_key_has_no_reference() -> None:
    assert ImageReference.from_manifest({"name": "b"}) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), []),
        (("views",), {"KNEE": {}}),
        (("views", "NT", "group"), []),
        (("views", "NT", "group"), [0, 1]),
        (("views", "NT", "statistics", "mean"), [1, 2]),
        (("views", "NT", "statistics", "mean"), [1, 2, float("inf")]),
        (("views", "NT", "embeddings", "dimensions"), 5),
        (("views", "NT", "embeddings", "dimensions"), 0),
        (("views", "NT", "embeddings", "float16"), "no base64!"),
        (("views", "NT", "embeddings", "float16"), None),
    ],
)
def test_what_is_no_reference_is_refused(path: tuple[str, ...], value: Any) -> None:
    manifest = {KEY: json.loads(json.dumps(reference().to_json()))}
    place, names = manifest, (KEY, *path)
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = value
    with pytest.raises(ValueError, match=KEY):
        ImageReference.from_manifest(manifest)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda each: (
    st.lists(each) | st.dictionaries(st.sampled_from(("views", "NT", "group", "x")), each)
)))  # fmt: skip
def test_whatever_the_key_holds_only_a_value_error_comes_of_it(body: Any) -> None:
    with pytest.raises(ValueError, match=KEY):
        ImageReference.from_manifest({KEY: body})
