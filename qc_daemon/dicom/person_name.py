"""Names of persons (PN, PS3.5 6.2): cleaned for people, and folded to what identifies one person.

"DOE^JANE", "Doe^Jane^^" and "Doe ^ jane" are one name: trailing components may be left out, and
machines type in capitals. Accents count, and so do the ideographic characters.
"""

import unicodedata

from detector.plain_text import fold

MAX_GROUP = 64
"""Characters of a component group (PS3.5 6.2)."""
_GROUPS = 2  # Alphabetic and ideographic; the phonetic one repeats them.
_COMPONENTS = 5


def clean_name(text: str) -> str | None:
    """The name without empty ends and double spaces; None where it says nothing or is longer than a
    name can be."""
    groups = [_clean_group(group) for group in text.split("=")[:_GROUPS]]
    if any(len(group) > MAX_GROUP for group in groups):
        return None
    name = "=".join(groups).rstrip("=")
    return name if any(letter.isalnum() for letter in name) else None


def names_nobody(name: str) -> bool:
    """Whether a name or code says that there is none, or only what somebody does there: "UNKNOWN",
    "n/a", "Operator"; a name of `_NO_NAMES` alone, in any group and component."""
    words = fold(name.replace("=", " ")).split()
    return " ".join(words) in _NO_NAMES or all(word in _NO_NAMES for word in words)


_NO_NAMES = frozenset(
    # What de-identification leaves, what a field that must be filled in gets, and what machines
    # call whoever uses them; folded.
    (
        *("anon", "anonym", "anonymised", "anonymized", "anonymous", "deidentified", "removed"),
        *("blank", "default", "dummy", "empty", "n a", "na", "nil", "no name", "noname", "none"),
        *("not given", "not known", "not specified", "null", "undefined", "unk", "unknown"),
        *("unnamed", "unspecified", "x", "xx", "xxx", "keine", "keiner", "unbekannt", "inconnu"),
        *("desconocido", "sconosciuto", "不明", "未知", "无"),
        *("admin", "administrator", "doctor", "examiner", "guest", "operator", "physician"),
        *("sonographer", "technician", "user", "benutzer", "bediener", "gast", "untersucher"),
    )
)


def fold_name(name: str) -> str:
    """A name of `clean_name` as it is compared: compatibility forms and case do not count."""
    return _clean_group_of_each(unicodedata.normalize("NFKC", name).casefold())


def name_words(name: str) -> tuple[str, ...]:
    """The components of the alphabetic group, without empty ones; of the first that is there."""
    for group in name.split("="):
        words = tuple(word for word in group.split("^") if word)
        if words:
            return words
    return ()


def _clean_group_of_each(name: str) -> str:
    return "=".join(map(_clean_group, name.split("=")))


def _clean_group(group: str) -> str:
    parts = (" ".join(part.split()) for part in group.split("^")[:_COMPONENTS])
    return "^".join(parts).rstrip("^")
