"""The closed list of reasons for an override or a dispute, with their words."""

REASONS = {
    "other-view": "the picture shows another view",
    "criterion": "a criterion was judged wrongly",
    "structure-missed": "a structure that is in the picture was not detected",
    "structure-wrong": "a structure was detected that is not there",
    "image-quality": "gain, focus or shadow was judged wrongly",
    "measurable": "what the view is for can be seen and measured all the same",
    "not-measurable": "what the view is for cannot be seen or measured",
    "left-to-person": "the models left the verdict to a person",
    "other": "another reason, which the remark names",
}
"""Code and words. `other` needs a remark. New ones come last: the SR's codes count them."""

NEEDS_REMARK = "other"
LEFT_TO_PERSON = "left-to-person"


def list_reasons() -> str:
    """The codes to choose from, with their words, in one line."""
    return ", ".join(f"{code} ({words})" for code, words in REASONS.items())
