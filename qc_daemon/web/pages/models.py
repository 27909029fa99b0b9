"""Models: bundles with their cards, parts and shadow audits; site calibrations before and after."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from qc_daemon.operations.model_pages import (
    PART_COLUMNS,
    calibration_lines,
    figure_rows,
    list_calibrations,
    list_models,
    read_calibration,
    read_model,
)
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of
from qc_daemon.web.markdown import render_markdown
from qc_daemon.web.rendering import render

router = APIRouter(include_in_schema=False)
_Sees = Annotated[
    Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OPERATIONS, Verb.ACTIVATE_MODELS))
]


@router.get("/models")
def models_page(request: Request, principal: _Sees) -> Response:
    """Bundles: which one is active, and what else there is."""
    rows = list_models(context_of(request).settings)
    return render(request, "models.html", principal, {"rows": rows})


@router.get("/models/{model_id}")
def model_page(model_id: str, request: Request, principal: _Sees) -> Response:
    """A bundle: its card, parts and manifest, and the audits that tried it in shadow."""
    model = read_model(context_of(request).settings, model_id)
    manifest = json.dumps(model["manifest"], indent=1, ensure_ascii=False)
    card = render_markdown(model["card"], heading=3) if model["card"] else None
    values = {"model": model, "card": card, "manifest": manifest, "part_columns": PART_COLUMNS}
    return render(request, "model.html", principal, values)


@router.get("/site-calibrations")
def calibrations_page(request: Request, principal: _Sees) -> Response:
    """Sites, what counts there, and what was decided."""
    sites, history = list_calibrations(context_of(request).settings)
    values = {"sites": sites, "history": history[::-1]}
    return render(request, "site_calibrations.html", principal, values)


@router.get("/site-calibrations/{calibration}")
def calibration_page(calibration: str, request: Request, principal: _Sees) -> Response:
    """A site calibration: what it rests on, figures before and after, what is promised."""
    record = read_calibration(context_of(request).settings, calibration)
    values = {"record": record, "lines": calibration_lines(record), "figures": figure_rows(record)}
    return render(request, "site_calibration.html", principal, values)
