"""What pages load: style, script, icon, font, and htmx where the build step has put it."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from qc_daemon.operations.principals import Principal
from qc_daemon.web.access import Public

FOLDER = Path(__file__).parent / "static"
HTMX = FOLDER / "vendor" / "htmx.min.js"
# Also in overlays and reports; a browser loads it only where its system lacks Chinese letters.
_HAN = FOLDER.parent.parent / "language" / "fonts" / "NotoSansSC-Regular.woff"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff": "font/woff",
}
_YEAR = "public, max-age=31536000, immutable"
router = APIRouter(include_in_schema=False)


@cache
def version() -> str:
    """Changes whenever a file does: stands in the files' addresses, which browsers keep."""
    digest = hashlib.sha256()
    for path in _paths().values():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _paths() -> dict[str, Path]:
    files = sorted(path for path in FOLDER.rglob("*") if path.suffix in _TYPES)
    return {path.name: path for path in (*files, _HAN)}


@router.get("/static/{version}/{name}")
def static_file(
    version: str, name: str, request: Request, _: Annotated[Principal | None, Depends(Public())]
) -> Response:
    """A file by its name; of those that there are, none else."""
    path = _paths().get(name)
    if path is None:
        raise HTTPException(404)
    return Response(
        path.read_bytes(), media_type=_TYPES[path.suffix], headers={"cache-control": _YEAR}
    )
