"""Bundles and site calibrations: what there is, what counts, activate, retire and waive."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from qc_daemon.operations.changes.change import Choice
from qc_daemon.operations.model_pages import (
    list_calibrations,
    list_models,
    read_calibration,
    read_model,
)
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.api.shared import (
    ERRORS,
    ChangeBody,
    Page,
    Word,
    add_change,
    operation_id,
)
from qc_daemon.web.context import context_of

router = APIRouter(prefix="/api/v1", tags=["models"], generate_unique_id_function=operation_id)
_Sees = Annotated[
    Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OPERATIONS, Verb.ACTIVATE_MODELS))
]
_MODEL_ID, _CALIBRATION = "^[0-9a-f]{64}$", "^[0-9a-f]{12}$"


class BundleRequest(ChangeBody):
    """A listed bundle by its model id."""

    model_id: Annotated[str, Field(pattern=_MODEL_ID)]

    def choice(self) -> Choice:
        return Choice(name=self.model_id)


class CalibrationRequest(ChangeBody):
    """A stored calibration by its id."""

    calibration: Annotated[str, Field(pattern=_CALIBRATION)]

    def choice(self) -> Choice:
        return Choice(name=self.calibration)


class SiteRequest(ChangeBody):
    """A site by its name."""

    site: Word

    def choice(self) -> Choice:
        return Choice(name=self.site)


class Calibrations(BaseModel):
    """Sites with what counts there, and what was proposed and decided, the newest last."""

    sites: list[dict[str, Any]]
    history: list[dict[str, Any]]


@router.get("/bundles", responses=ERRORS)
def bundles(request: Request, principal: _Sees) -> Page:
    """Bundles that are shipped or were active; all on one page."""
    return Page(items=list_models(context_of(request).settings), cursor=None)


@router.get("/bundles/{model_id}", responses=ERRORS)
def bundle(
    request: Request,
    principal: _Sees,
    model_id: Annotated[str, Path(pattern=_MODEL_ID, description="as in a list")],
) -> dict[str, Any]:
    """A bundle: manifest, card, parts, and the audits that tried it in shadow."""
    return read_model(context_of(request).settings, model_id)


@router.get("/site-calibrations", responses=ERRORS)
def site_calibrations(request: Request, principal: _Sees) -> Calibrations:
    """Sites, what counts there, and what was decided."""
    sites, history = list_calibrations(context_of(request).settings)
    return Calibrations(sites=sites, history=history)


@router.get("/site-calibrations/{calibration}", responses=ERRORS)
def site_calibration(
    request: Request,
    principal: _Sees,
    calibration: Annotated[str, Path(pattern=_CALIBRATION, description="as in the history")],
) -> dict[str, Any]:
    """A site calibration: what it rests on, figures before and after, what is promised."""
    return read_calibration(context_of(request).settings, calibration).to_json()


for _path, _change, _body, _words in (
    (
        "/bundles/activate",
        "bundle-activate",
        BundleRequest,
        "Score exams that are opened from now on with this bundle.",
    ),
    (
        "/site-calibrations/activate",
        "site-activate",
        CalibrationRequest,
        "Give new findings of its site these probabilities and thresholds.",
    ),
    (
        "/site-calibrations/retire",
        "site-retire",
        SiteRequest,
        "Take back what is active at a site, a waiver too.",
    ),
    (
        "/site-calibrations/waive",
        "site-waive",
        SiteRequest,
        "Decide that verdicts at a site need no calibration for the active bundle.",
    ),
):
    add_change(router, _path, _change, _body, _words)
