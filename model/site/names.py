"""Names of sites, as headers and people write them: which ones are the same, by one rule.

Institution Name (0008,0080) is LO: spaces at its ends mean nothing (PS3.5 6.2). People and machines
write one name in capitals, without its accents or its points.
"""

from detector.plain_text import fold

UNNAMED = "unnamed"
"""The site of images that name none."""


def site_key(name: str | None) -> str | None:
    """The name to compare by, without case, accents, punctuation and spaces at its ends; None where
    nothing is left."""
    return None if name is None else fold(name) or None


def site_of(name: str | None) -> str:
    """As `site_key`, `UNNAMED` for none. Its own result is the same site."""
    return site_key(name) or UNNAMED


def is_same_site(one: str | None, other: str | None) -> bool:
    """Whether two names are one site's."""
    return site_of(one) == site_of(other)
