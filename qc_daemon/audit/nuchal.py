"""Measuring of the nuchal translucency: bias and spread of each person, against a curve.

log10 of the multiple of the median (MoM) is near to normal with one spread at each crown-rump
length (Nicolaides et al.; Sahota 2011). It judges measuring, and says nothing of a fetus. The curve
is a table of the settings with its citation, else the lab's own: a parabola through everybody's
values.
"""

from dataclasses import dataclass

import numpy as np

from qc_daemon.audit.measures import CRL_RANGE, Frame
from qc_daemon.audit.statistics.benchmark import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class NuchalCurve:
    """log10 of the median NT in mm: constant + linear x CRL + quadratic x CRL^2, CRL in mm."""

    constant: float
    linear: float
    quadratic: float
    citation: str

    def median(self, crl: Floats) -> Floats:
        """log10 of the median (n,)."""
        return self.constant + self.linear * crl + self.quadratic * np.square(crl)


def log_multiples(
    frame: Frame, is_included: Bools, curve: NuchalCurve | None
) -> tuple[Floats, Ints]:
    """(n,) log10 MoM of the exams with a CRL within CRL_RANGE and an NT, and their first rows.

    Without a curve that of the rows themselves. Empty for fewer than ten.
    """
    rows = frame.rows
    first = frame.first_row[is_included[frame.first_row]] if frame.exams else np.zeros(0, np.int64)
    low, high = CRL_RANGE
    with np.errstate(invalid="ignore"):
        is_measured = (rows.crl[first] >= low) & (rows.crl[first] <= high) & (rows.nt[first] > 0)
    row = first[is_measured]
    if len(row) < 10:
        return np.zeros(0), np.zeros(0, np.int64)
    crl, values = rows.crl[row], np.log10(rows.nt[row])
    if curve is not None:
        return values - curve.median(crl), row
    # Medians of bands of CRL: what a single person measures wrongly moves them little.
    scaled_crl = (crl - 65.0) / 10.0
    coefficients = np.polynomial.polynomial.polyfit(scaled_crl, values, 2)
    for _ in range(5):
        residual = values - np.polynomial.polynomial.polyval(scaled_crl, coefficients)
        weight = 1 / np.maximum(np.abs(residual), 0.01)
        coefficients = np.polynomial.polynomial.polyfit(scaled_crl, values, 2, w=np.sqrt(weight))
    return values - np.polynomial.polynomial.polyval(scaled_crl, coefficients), row
