"""Model cards as HTML: CommonMark with tables, without markup of their own and without pictures.

A card comes with a bundle, which may be somebody else's: what it has in HTML is shown as text, and
a link leads nowhere but to a web page.
"""

from markdown_it import MarkdownIt
from markupsafe import Markup

_LOWEST = 6
_LINK_SCHEMES = ("https://", "http://", "#")


def render_markdown(text: str, heading: int) -> Markup:
    """The card's HTML; its first heading has this level, and the others follow."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(text)
    levels = [int(token.tag[1:]) for token in tokens if token.type == "heading_open"]
    shift = heading - min(levels, default=1)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(_LOWEST, int(token.tag[1:]) + shift)}"
        # A column's alignment comes as a style, which the pages' policy forbids.
        if style := token.attrs.pop("style", None):
            token.attrs["class"] = str(style).removeprefix("text-align:")
        for child in token.children or ():
            if child.type == "link_open" and not str(child.attrGet("href")).startswith(
                _LINK_SCHEMES
            ):
                # A file beside the card, which is not served.
                child.attrs.pop("href")
    # The parser escapes all text, and no rule above lets markup through.
    return Markup(parser.renderer.render(tokens, parser.options, {}))
