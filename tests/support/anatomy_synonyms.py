"""Every name a structure may go by, for judging descriptions.

Written from anatomy and ultrasound usage, apart from the decoder's lexicon: nothing of `model` is
imported here. Whole-phrase patterns, case ignored; a phrase is taken by the longest name that
matches, so that "nasal bone" is no cranial bone and "cord insertion" no cord.
"""

import re

SYNONYMS: dict[str, tuple[str, ...]] = {
    "CB": (
        r"(cranial|skull|parietal|frontal|occipital|temporal) bones?",
        r"skull( outline| contour| vault)?",
        r"(cranial|skull) (outline|contour|vault)",
        r"calvari(um|a)|cranium|calvaria",
        r"head (outline|circumference)",
    ),
    "CP1": (r"left[- ]?(sided)? (choroid plexus|plexus choroideus|choroid)|CP1",),
    "CP2": (r"right[- ]?(sided)? (choroid plexus|plexus choroideus|choroid)|CP2",),
    "CP?": (r"(both |two )?choroid(al)? plexus(es)?|plexus choroide(us|i)|butterfly( sign)?",),
    "CF": (r"(cerebral )?falx( cerebri)?|midline (echo|falx)|interhemispheric fissure",),
    "NT": (
        r"nuchal (translucency|lucency|membrane|skin|fold|oedema|edema|fluid)",
        r"(?-i:NT)",
        r"nuchal",
    ),
    "NB": (r"(fetal )?nasal bones?|bones? of the nose|nose bone|(?-i:NB)|os nasale|ossa nasalia",),
    "F": (r"(facial|face|fetal) profile|face( in profile)?|profile|forehead|chin|mandible|lips?",),
    "NA": (r"nasal (apex|tip)|tip of the nose|nose tip|apex nasi|apex of the nose|nose",),
    "CRL": (
        r"crown[- ](to[- ])?rump( length| extent| distance)?|CRL",
        r"crown|rump|(whole )?f(o)?etus|embryo|long axis",
    ),
    "S": (r"stomach( bubble)?|gastric( bubble)?|gaster",),
    "AS": (
        r"abdominal (section|outline|contour|circumference|wall|cross[- ]section)|abdomen|trunk",
    ),
    "UC": (r"umbilical (cord|vein|arter(y|ies))|cord|funiculus|funis|cord vessels",),
    "UI": (
        r"(umbilical |abdominal )?(cord )?insertion|insertion of the (umbilical )?cord",
        r"umbilicus|navel",
    ),
    "UNKNOWN": (
        r"un(known|identified|labelled|classified) structures?|other structure|mass|cyst|lesion",
    ),
    "TH": (r"thalam(us|i|ic)( region)?|diencephalon",),
    "MB": (r"mid[- ]?brain|mesencephalon|brain ?stem|tectum|peduncles?",),
    "PAL": (r"(hard |soft )?palat(e|um)|maxilla(ry bone)?|upper jaw",),
    "IT": (
        r"intra[- ]?cranial (translucency|lucency)|(?-i:IT)",
        r"(fourth|4th|IV(th)?) ventricle|ventric(le|ulus)( quartus)?",
    ),
    "CM": (r"cisterna( cerebello-?medullaris)?( magna)?|posterior fossa|(?-i:CM)",),
    "NS": (r"(pre)?nasal skin|skin (over|of|on) the nose|(?-i:NS)|nasal soft tissue|skin",),
}
"""Label code -> patterns. "CP?" is a plexus of no side: it needs either to be detected."""

JUDGEMENTS = (
    r"\b(normal|abnormal|standard|adequate|good|poor|thick(ened)?|absent|missing|increased|"
    r"diagnos\w+|risk|suspicio\w+|patholog\w+|anomal\w+|defect|no|not|without|one|two|three|\d+)\b"
)
"""Words that judge, diagnose or count."""


def named(text: str) -> set[str]:
    """Codes of the structures that the text names; the longest name at each place counts."""
    matches: list[tuple[int, int, str]] = [
        (match.start(), match.end(), code)
        for code, patterns in SYNONYMS.items()
        for pattern in patterns
        for match in re.finditer(
            rf"(?<![\w-])(?:{pattern})(?![\w-])",
            text,
            re.IGNORECASE,
        )
    ]
    accepted: list[tuple[int, int]] = []
    codes: set[str] = set()
    for start, end, code in sorted(matches, key=lambda hit: (hit[0] - hit[1], hit[0])):
        if all(end <= low or start >= high for low, high in accepted):
            accepted.append((start, end))
            codes.add(code)
    return codes


def undetected(text: str, detected: set[str]) -> set[str]:
    """Structures named though they are not among the detected label codes."""
    extra = named(text) - detected
    if detected & {"CP1", "CP2"}:
        extra.discard("CP?")
    return extra
