"""Another model's opinion on a finding's view, as a measurement group of its own (TID 1501).

It has an algorithm identification of its own (TID 4019) and stands for the same thing as the
finding's group, whose Tracking Unique Identifier it has. Finding `F2` has the groups `O2-1`,
`O2-2`, ...
"""

from collections.abc import Iterator
from functools import lru_cache

import highdicom.sr as hd

from detector.anatomy import View
from model.finding import Finding
from model.parts.opinion import Opinion, PartId
from qc_daemon.report.equipment import MANUFACTURER
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.groups import MODEL_ID, finding_uid, number_item, storable_text

OPINION = "O"
"""The tracking identifiers of opinions begin with this."""
_ALGORITHM = "qc-daemon part "
"""The algorithm's name is this, the part's family and its name."""
_UNNAMED = "(in letters that cannot be stored)"


def build_opinion_groups(
    number: int, finding: Finding, source: SourceInstance
) -> Iterator[hd.templates.Template]:
    """A group for each of the finding's opinions, in their order."""
    for index, opinion in enumerate(finding.judgement.opinions, start=1):
        group = hd.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.TrackingIdentifier(
                uid=finding_uid(finding, source), identifier=f"{OPINION}{number}-{index}"
            ),
            algorithm_id=_algorithm(opinion.part),
            measurements=[number_item(codes.CLASS_PROBABILITY, opinion.probability)],
            qualitative_evaluations=list(_evaluations(opinion, finding.judgement.view)),
            source_images=[
                hd.SourceImageForMeasurementGroup(
                    referenced_sop_class_uid=source.sop_class_uid,
                    referenced_sop_instance_uid=source.sop_instance_uid,
                    referenced_frame_numbers=source.frame_numbers(finding.frame),
                )
            ],
        )
        contains = hd.RelationshipTypeValues.CONTAINS
        label = storable_text(opinion.label) or _UNNAMED
        group[0].ContentSequence.append(hd.TextContentItem(codes.OPINION_CLASS, label, contains))
        yield group


@lru_cache(maxsize=8)
def _algorithm(part: PartId) -> hd.AlgorithmIdentification:
    """Algorithm identification (TID 4019), made once a part because making it costs time."""
    return hd.AlgorithmIdentification(
        name=f"{_ALGORITHM}{part.family} {part.name}",
        version=part.version,
        parameters=[f"{MODEL_ID}{part.model_id}"],
        manufacturer=MANUFACTURER,
    )


def _evaluations(opinion: Opinion, view: View) -> Iterator[hd.QualitativeEvaluation]:
    yield hd.QualitativeEvaluation(codes.OPINION, codes.OPINIONS[opinion.role])
    for each in opinion.views:
        yield hd.QualitativeEvaluation(codes.CLASS_VIEW, codes.VIEWS[each])
    if opinion.reason is not None:
        reason = codes.OPINION_REASONS[opinion.reason]
        yield hd.QualitativeEvaluation(codes.OPINION_REASON, reason)
    yield hd.QualitativeEvaluation(codes.AGREES, codes.MET[opinion.agrees_with(view)])


def parse_part(name: str, version: str, parameters: str) -> PartId:
    """The inverse of the algorithm identification. Raises ValueError on another algorithm's."""
    if not name.startswith(_ALGORITHM):
        raise ValueError("an algorithm that is no part")
    family, _, part = name.removeprefix(_ALGORITHM).partition(" ")
    return PartId(family, part, version, parameters.removeprefix(MODEL_ID))
