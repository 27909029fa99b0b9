"""The codes our objects use: the private scheme 99QCD and the public ones it stands beside.

`conformance_table` prints the private scheme as docs/conformance.md shows it.
"""

from types import MappingProxyType

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from detector.anatomy import LABELS, View
from detector.errors import Flag
from model.criteria.faults import CELLS, HIGH, LOW, WHOLE
from model.criteria.rules import FOCUS, GAIN, RULES, SHADOW
from model.finding import (
    CRITERION_REASON,
    NON_STANDARD,
    REGION_REASON,
    STANDARD,
    STRUCTURE_REASON,
)
from model.finding import REVIEW as LEFT_TO_PERSON
from model.parts.opinion import (
    LOW_PROBABILITY,
    LOW_SIMILARITY,
    SECOND_OPINION,
    VIEW_CLASSIFIER,
)
from qc_daemon.review.events import EventKind
from qc_daemon.review.reasons import REASONS as REASONS_OF_REVIEW

SCHEME = "99QCD"
SCHEME_NAME = "qc-daemon ultrasound image quality"
SCHEME_ORGANIZATION = "qc-daemon project"


def _private(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


VIEW = _private("VIEW", "Ultrasound view")
VIEW_PROBABILITY = _private("VIEW-P", "Probability of the view")
QUALITY = _private("QLTY", "Quality of the view")
PROBABILITY = _private("PSTD", "Probability of a standard view")
RAW_PROBABILITY = _private("PSTD-RAW", "Probability of a standard view before calibration")
BUNDLE_PROBABILITY = _private("PSTD-BUNDLE", "Probability of a standard view by the bundle alone")
SITE = _private("SITE", "Site whose calibration gives the probability")
SITE_CALIBRATION = _private("SITE-CAL", "Calibration of the probability to the site")
SITE_CALIBRATIONS = MappingProxyType(
    {
        "none": _private("SITE-NONE", "Not calibrated to the site"),
        "unlabelled": _private("SITE-UNLABELLED", "Calibrated by findings without labels"),
        "reviewed": _private("SITE-REVIEWED", "Calibrated by reviewed findings"),
    }
)
SITE_CALIBRATION_ID = _private("SITE-CAL-ID", "Identifier of the site calibration")
SITE_PROMISE = _private("SITE-PROMISE", "What is promised of verdicts at the site")
SITE_NUMBER = _private("SITE-N", "Findings that the site calibration rests on")
SITE_SHIFT = _private("SITE-SHIFT", "Shift of log odds at the site")
GATES = (
    _private("GIMG", "Fusion weight of the image"),
    _private("GTXT", "Fusion weight of the text"),
    _private("GSPA", "Fusion weight of the spatial layout"),
)
REGION = _private("REGION", "Index of the ultrasound region")
REGION_BOX = (
    _private("REGION-X0", "Ultrasound region, left edge"),
    _private("REGION-Y0", "Ultrasound region, top edge"),
    _private("REGION-X1", "Ultrasound region, right edge"),
    _private("REGION-Y1", "Ultrasound region, bottom edge"),
)
FRAME = _private("FRAME", "Frame of an object whose class has single frames")
REVISION = _private("REVISION", "Revision of the source instance's content")
CREATED = _private("CREATED", "Moment of the finding, ISO 8601")
FLAG = _private("FLAG", "Remark")
CLINICAL_USE = _private("CLINICAL-USE", "Models are meant for clinical use")
VALUE = _private("VALUE", "Value the criterion was judged by")
UNIT = _private("UNIT", "Unit of a criterion without a value")
EVIDENCE = _private("EVIDENCE", "Structure that criteria were read from")
READ_FROM = _private("READ-FROM", "Structures the criterion was read from")
CONFIDENCE = _private("CONF", "Confidence of the detection")

VIEWS = MappingProxyType(
    {
        View.NT: _private("VIEW-NT", "Nuchal translucency, mid-sagittal"),
        View.CRL: _private("VIEW-CRL", "Crown-rump length"),
        View.HEAD: _private("VIEW-HEAD", "Head, axial"),
        View.ABDOMEN: _private("VIEW-ABDOMEN", "Abdomen, axial"),
        View.OTHER: _private("VIEW-OTHER", "None of the assessed views"),
    }
)
QUALITIES = MappingProxyType(
    {
        STANDARD: _private("STD", "Standard view"),
        NON_STANDARD: _private("NON", "Non-standard view"),
        LEFT_TO_PERSON: _private("REV", "To be reviewed by a person"),
    }
)
FLAGS = MappingProxyType(
    {
        Flag.OUT_OF_DISTRIBUTION: _private("FLAG-OOD", "Unlike the images learned from"),
        Flag.NO_REAL_EVIDENCE: _private("FLAG-EVIDENCE", "View learned from simulations only"),
        Flag.BEYOND_FIRST_TRIMESTER: _private(
            "FLAG-AGE", "Head larger than in the first trimester"
        ),
        Flag.NOT_COMMISSIONED: _private(
            "FLAG-COMMISSION", "Probability not calibrated to this site"
        ),
        Flag.BURNED_IN_TEXT: _private("FLAG-TEXT", "Text burned into the picture"),
        Flag.LOW_RESOLUTION: _private("FLAG-LOWRES", "Low resolution"),
        Flag.HEADER_NORMALISED: _private("FLAG-HEADER", "Invalid header values were emptied"),
        Flag.SAME_UID_OTHER_CONTENT: _private("FLAG-SAMEUID", "Other content under the same UID"),
        Flag.OTHER_PATIENT_IN_STUDY: _private(
            "FLAG-PATIENTS", "Study UID shared with another patient"
        ),
        Flag.COLOUR_DOUBTFUL: _private("FLAG-COLOUR", "Colour space doubtful"),
        Flag.MORE_FRAMES_THAN_STATED: _private(
            "FLAG-FRAMES", "Pixel data hold more frames than the header says"
        ),
        Flag.UNREADABLE_FRAMES: _private("FLAG-BADFRAMES", "Other frames cannot be decoded"),
        Flag.NOT_ULTRASOUND: _private("FLAG-NOTUS", "Not an ultrasound image"),
        Flag.VIEW_DISAGREEMENT: _private("FLAG-VIEW", "Another model takes it for another view"),
    }
)
LABEL_CODES = MappingProxyType(
    {label.code: _private(label.code, label.meaning) for label in LABELS}
)
CRITERIA = MappingProxyType(
    {rule.code: _private(rule.code, rule.meaning) for rules in RULES.values() for rule in rules}
)
REASON = _private("REASON", "Reason against a standard view")
REASON_WORDS = _private("REASON-WORDS", "Reason, and what to do")
DIRECTION = _private("DIRECTION", "End that the criterion's value lies beyond")
DIRECTIONS = MappingProxyType(
    {LOW: Code("62482003", "SCT", "Low"), HIGH: Code("75540009", "SCT", "High")}
)
PARTS = MappingProxyType(
    {
        **{
            cell: _private(f"REG-{cell.upper()}", f"Picture, {cell.replace('-', ' ')}")
            for cell in CELLS
        },
        WHOLE: _private("REG-WHOLE", "Picture as a whole"),
    }
)
"""Parts of the picture that a reason may name."""
REASON_CODES = MappingProxyType(
    {
        **{(CRITERION_REASON, criterion): code for criterion, code in CRITERIA.items()},
        **{(STRUCTURE_REASON, label): code for label, code in LABEL_CODES.items()},
        **{(REGION_REASON, part): code for part, code in PARTS.items()},
    }
)
"""The value of REASON by kind and code of a finding's reason."""
REASON_GAIN = _private("NOT-GAIN", "Gain not adequate")
REASON_FOCUS = _private("NOT-SHARP", "Image not sharp")

REVIEW = _private("REVIEW", "Person's review of the finding")
REVIEWS = MappingProxyType(
    {
        EventKind.ACCEPT: _private("RVW-ACCEPTED", "Person agrees with the models"),
        EventKind.OVERRIDE: _private("RVW-OVERRIDDEN", "Person says otherwise than the models"),
        EventKind.RESOLVE: _private("RVW-RESOLVED", "Person decided between two readings"),
    }
)
DECIDED = _private("RVW-DECIDED", "Person decided what the models left to a person")
"""Of an override where the models have no verdict: there is nothing that it contradicts."""
REVIEW_REASON = _private("RVW-REASON", "Reason of the person's verdict")
REVIEW_REASONS = MappingProxyType(
    {
        reason: _private(f"RR-{number:02}", words[:1].upper() + words[1:])
        for number, (reason, words) in enumerate(REASONS_OF_REVIEW.items(), start=1)
    }
)
BLINDED = _private("BLINDED", "Read without the models' answer")

OPINION = _private("OPINION", "Another model's opinion on the view")
OPINIONS = MappingProxyType(
    {
        SECOND_OPINION: _private("OPN-SECOND", "Second opinion"),
        VIEW_CLASSIFIER: _private("OPN-CLASSIFIER", "View classifier"),
    }
)
OPINION_CLASS = _private("OPN-CLASS", "Class that the other model names")
CLASS_PROBABILITY = _private("OPN-P", "Probability of the class")
CLASS_VIEW = _private("OPN-VIEW", "View that the class stands for")
AGREES = _private("OPN-AGREES", "The class stands for the finding's view")
OPINION_REASON = _private("OPN-REASON", "Why the other model names no class")
OPINION_REASONS = MappingProxyType(
    {
        LOW_SIMILARITY: _private("OPN-UNLIKE", "Picture like none of its classes"),
        LOW_PROBABILITY: _private("OPN-UNSURE", "Not sure of any class"),
    }
)

FINDING_SITES = MappingProxyType(
    {
        "CP1": codes.SCT.StructureOfChoroidPlexus,
        "CP2": codes.SCT.StructureOfChoroidPlexus,
        "NB": codes.SCT.NasalBone,
        "S": codes.SCT.StomachStructure,
        "UC": codes.SCT.UmbilicalCord,
        "TH": codes.SCT.Thalamus,
        "MB": codes.SCT.Midbrain,
        "CM": codes.SCT.CisternaMagna,
    }
)
"""Public codes of the labels that have an exact one."""

QUALITY_ASSESSMENT = codes.DCM.QualityAssessment
QUALITY_ASSESSMENTS = MappingProxyType(
    {
        STANDARD: codes.DCM.UsableMeetsTheQualityControlStandard,
        NON_STANDARD: codes.DCM.UsableDoesNotMeetTheQualityControlStandard,
    }
)
IMAGE_QUALITY = codes.DCM.ImageQuality
LIMITED_QUALITY = codes.RADLEX.LimitedQuality
COMMENT = codes.DCM.Comment
FINDING = codes.DCM.Finding
TRACKING_IDENTIFIER = codes.DCM.TrackingIdentifier
TRACKING_UID = codes.DCM.TrackingUniqueIdentifier
PERSON_OBSERVER_NAME = codes.DCM.PersonObserverName
ALGORITHM_NAME = codes.DCM.AlgorithmName
ALGORITHM_VERSION = codes.DCM.AlgorithmVersion
ALGORITHM_PARAMETERS = codes.DCM.AlgorithmParameters
SOURCE_OF_MEASUREMENT = codes.DCM.SourceOfMeasurement
IMAGE_REGION = codes.DCM.ImageRegion
IMAGING_MEASUREMENTS = codes.DCM.ImagingMeasurements
DEFAULT_PROCEDURE = Code("268445003", "SCT", "Ultrasound scan - obstetric")
"""Procedure reported where the source names none."""

MET = MappingProxyType(
    {True: codes.cid230.Yes, False: codes.cid230.No, None: codes.cid230.Undetermined}
)
QUALITY_STANDARD = codes.DCM.QualityControlStandard
OWN_STANDARD = codes.DCM.InstitutionallyDefinedQualityControlStandard
"""The nearest of CID 6045: no public code names a first-trimester guideline."""
REFERENCE_AUTHORITY = codes.DCM.ReferenceAuthority
SPACINGS = (codes.DCM.HorizontalPixelSpacing, codes.DCM.VerticalPixelSpacing)
"""Millimetres per pixel along x and y."""

CROWN_RUMP_LENGTH = codes.LN.CrownRumpLength
GESTATIONAL_AGE = codes.LN.GestationalAge
AGE_BY_CRL = "GA-CRL"
MACHINE_CONCEPTS = MappingProxyType(
    {
        "CRL": CROWN_RUMP_LENGTH,
        "NT": codes.LN.NuchalTranslucency,
        "GA": GESTATIONAL_AGE,
        AGE_BY_CRL: GESTATIONAL_AGE,
    }
)
"""The concepts of machines' measurements by their stored name; an age by CRL also has a method."""
METHOD = codes.SCT.MeasurementMethod
SUBJECT_CLASS = codes.DCM.SubjectClass
FETUS = codes.DCM.Fetus
FETUS_ID = Code("11951-1", "LN", "Fetus ID")

IMAGE_LIBRARY = codes.DCM.ImageLibrary
IMAGE_LIBRARY_GROUP = codes.DCM.ImageLibraryGroup
LIBRARY_ENTRY = Code("260753009", "SCT", "Source")
MODALITY = codes.DCM.Modality
ULTRASOUND = codes.cid29.Ultrasound
ROWS = codes.DCM.PixelDataRows
COLUMNS = codes.DCM.PixelDataColumns
FRAMES = codes.DCM.NumberOfFrames

NO_UNIT = Code("1", "UCUM", "no units")
PIXELS = Code("{pixels}", "UCUM", "pixels")
MILLIMETRE = codes.UCUM.Millimeter
MACHINE_UNITS = MappingProxyType({"mm": MILLIMETRE, "d": codes.UCUM.Day})

QUALITY_ISSUE = codes.DCM.QualityIssue
REJECTED = codes.DCM.RejectedForQualityReasons
TITLE_MODIFIER = codes.DCM.DocumentTitleModifier
# CID 7010 is extensible and has no title for a rejection taken back; neither has IHE IOCM.
REJECTION_RETRACTED = _private("REJ-RETRACTED", "Rejection retracted")
# CID 7011 was made for X-ray; for gain and focus it has no code that says no more than is known.
_TECHNICAL_REASONS = MappingProxyType(
    {
        GAIN.code: REASON_GAIN,
        FOCUS.code: REASON_FOCUS,
        SHADOW.code: codes.cid7011.ImageArtifacts,
    }
)
REASONS = MappingProxyType(
    {
        code.value: code
        for code in (
            codes.cid7011.Positioning,
            codes.cid7011.ImageArtifacts,
            codes.cid7011.MotionBlur,
            codes.cid7011.NoImage,
            codes.cid7011.InappropriateImageProcessing,
            codes.cid7011.MechanicalFailure,
            codes.cid7011.ElectricalFailure,
            codes.cid7011.SoftwareFailure,
            codes.cid7011.OtherFailure,
            codes.cid7011.UnknownFailure,
            REASON_GAIN,
            REASON_FOCUS,
        )
    }
)
"""The reasons for which a person may reject an image, by code value: CID 7011 without X-ray's."""

PRIVATE: tuple[tuple[str, tuple[Code, ...]], ...] = (
    ("concept, CODE", (VIEW, QUALITY, SITE_CALIBRATION, FLAG, EVIDENCE, REASON, DIRECTION)),
    ("concept, NUM", (PROBABILITY, RAW_PROBABILITY, VIEW_PROBABILITY, *GATES, CONFIDENCE, VALUE)),
    ("concept, NUM", (BUNDLE_PROBABILITY, SITE_NUMBER, SITE_SHIFT)),
    ("concept, NUM", (REGION, *REGION_BOX, FRAME, REVISION)),
    (
        "concept, TEXT",
        (CREATED, UNIT, READ_FROM, REASON_WORDS, SITE, SITE_CALIBRATION_ID, SITE_PROMISE),
    ),
    (
        "concept, CODE (CID 230); criteria are values of REASON, too",
        (CLINICAL_USE, *CRITERIA.values()),
    ),
    ("value of VIEW", tuple(VIEWS.values())),
    ("value of QLTY and Document Title Modifier", tuple(QUALITIES.values())),
    ("value of SITE-CAL", tuple(SITE_CALIBRATIONS.values())),
    ("value of FLAG", tuple(FLAGS.values())),
    ("value of Document Title Modifier", (REASON_GAIN, REASON_FOCUS)),
    ("value of Finding, EVIDENCE and REASON", tuple(LABEL_CODES.values())),
    ("value of REASON", tuple(PARTS.values())),
    ("Document Title", (REJECTION_RETRACTED,)),
    ("concept, CODE, in a person's group", (REVIEW, REVIEW_REASON)),
    ("concept, CODE (CID 230), in a person's group", (BLINDED,)),
    ("value of REVIEW", (*REVIEWS.values(), DECIDED)),
    ("value of RVW-REASON", tuple(REVIEW_REASONS.values())),
    ("concept, CODE, in another model's group", (OPINION, CLASS_VIEW, OPINION_REASON)),
    ("concept, CODE (CID 230), in another model's group", (AGREES,)),
    ("concept, NUM, in another model's group", (CLASS_PROBABILITY,)),
    ("concept, TEXT, in another model's group", (OPINION_CLASS,)),
    ("value of OPINION", tuple(OPINIONS.values())),
    ("value of OPN-REASON", tuple(OPINION_REASONS.values())),
)
"""All codes of the private scheme, by use."""


def attention_reason(criterion: str) -> Code:
    """The reason why an image that fails this criterion, or does not show the structure of this
    label, needs attention (CID 7011): Positioning for all but the technical criteria."""
    code: Code = _TECHNICAL_REASONS.get(criterion, codes.cid7011.Positioning)
    return code


def coding_scheme() -> CodingSchemeIdentificationItem:
    """Names the private scheme in an object that uses it (PS3.3 C.12.1)."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME, name=SCHEME_NAME, responsible_organization=SCHEME_ORGANIZATION
    )


def unit_code(ucum: str) -> Code:
    """The UCUM code as a coded unit."""
    return NO_UNIT if ucum == NO_UNIT.value else Code(ucum, "UCUM", ucum)


def conformance_table() -> str:
    """The private scheme as a Markdown table."""
    lines = ["| code | meaning | use |", "|---|---|---|"]
    lines += [
        f"| `{code.value}` | {code.meaning} | {use} |" for use, listed in PRIVATE for code in listed
    ]
    return "\n".join(lines)
