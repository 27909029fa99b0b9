"""Real planes of the second and third trimester, which are none of the four views.

FETAL_PLANES_DB, Burgos-Artizzu et al. 2020, Zenodo 3904280. Nothing is boxed; what a plane cannot
show is annotated as absent.
"""

from pathlib import Path

from detector.anatomy import BY_CODE, View
from training.data.csv_rows import check_pictures, read_rows
from training.data.heads import NOT_IN_A_HEAD
from training.data.samples import UNKNOWN, Origin, Sample, SampleError

DATASET = "FETAL_PLANES_DB"
_ALL = frozenset(BY_CODE) - {UNKNOWN}
_ABDOMEN = frozenset({"S", "AS", "UC", "UI"})
ABSENT = {
    # A section of the abdomen shows stomach and cord at any age; whose, the view says.
    "abdomen": _ALL - _ABDOMEN,
    "brain": NOT_IN_A_HEAD,
    "femur": _ALL,
    # Near the diaphragm a thorax shows the stomach.
    "thorax": _ALL - _ABDOMEN,
    "cervix": _ALL,
    # Anything, a profile too.
    "other": frozenset[str](),
}
"""Of each plane the structures that it cannot show."""


def read_fetal_planes(folder: Path) -> list[Sample]:
    """The planes, in file-name order; raises SampleError on a folder that is none of this set."""
    samples = []
    for row in read_rows(folder / "labels.csv", ("file", "patient", "plane"), DATASET):
        where = f"labels.csv: {row['file']}"
        if row["plane"] not in ABSENT:
            raise SampleError(f"{where}: plane {row['plane']!r} is none of {', '.join(ABSENT)}")
        samples.append(
            Sample(
                image=folder / row["file"],
                standard=None,
                annotated=ABSENT[row["plane"]],
                view=View.OTHER,
                group=f"fetal_planes/{row['patient']}",
                source=f"fetal_planes/{row['plane']}",
                origin=Origin.REAL,
                dataset=DATASET,
                hospital=DATASET,
                location=where,
            )
        )
    check_pictures(folder, [sample.image for sample in samples])
    return sorted(samples, key=lambda sample: sample.image.name)
