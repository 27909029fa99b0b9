"""Names of headers (PN, PS3.5 section 6.2.1) as people write them."""


def name_groups(name: object) -> list[str]:
    """The alphabetic group and the ideographic one, each "family name, given names"; "" where a
    group has nothing."""
    return [", ".join(filter(None, _parts(group))) for group in str(name or "").split("=")[:2]]


def format_name(name: object) -> str:
    """The ideographic group beside the alphabetic one."""
    return " / ".join(filter(None, name_groups(name)))


def _parts(group: str) -> tuple[str, str]:
    family, _, given_names = group.partition("^")
    return family.strip(), " ".join(part for part in given_names.split("^")[:2] if part.strip())
