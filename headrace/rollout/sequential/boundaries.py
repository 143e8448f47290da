"""How far a statistic may stray by chance, at any number of looks.

Information is counted as a share t of the horizon's total. The standardized statistic z at share t is then B(t) /
sqrt(t) for a Brownian motion B, and a boundary is a curve that B crosses with probability alpha at most, at whatever
times one looks.

- Known horizon: a straight line a + b·t on (0, 1]; its crossing probability has a closed form. The slope b says when
the error is spent: a steep line decides early on large effects, a flat one keeps its power for the horizon. With little
information the line is far out, so a normal approximation to a few counts does no harm.
- No horizon: the boundary of a normal mixture, valid for all t > 0.

Sources: Anderson 1960, "A modification of the sequential probability ratio test" (lines); Howard, Ramdas, McAuliffe,
Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", proposition 5 and its closed-form bound
(one-sided normal mixture); Robbins 1970.
"""

import math
from functools import cache

from scipy.optimize import brentq
from scipy.special import ndtr

# Harm should be found early, non-inferiority by the horizon. Slopes were chosen on 5% against 8% bad rows, and on a
# margin of 2 points; see docs/decisions/0010.
HARM_SLOPE = 2.0
ADVANCE_SLOPE = 1.0
# Share of the horizon at which the mixture's boundary is tightest.
_MIXTURE_SHARE = 0.25


def line_crossing(intercept: float, slope: float, horizons: float = 1.0) -> float:
    """Probability that a Brownian motion crosses `intercept + slope * t` anywhere on (0, `horizons`]."""
    root = math.sqrt(horizons)
    direct = ndtr(-(intercept / root + slope * root))
    reflected = math.exp(-2 * intercept * slope) * ndtr(slope * root - intercept / root)
    return float(direct + reflected)


@cache
def line_intercept(alpha: float, slope: float, horizons: float = 1.0) -> float:
    """The intercept for which a line of this slope is crossed with probability `alpha`."""
    return float(brentq(lambda intercept: line_crossing(intercept, slope, horizons) - alpha, 1e-9, 20.0))  # pyright: ignore[reportArgumentType]


def line_boundary(share: float, alpha: float, slope: float, horizons: float = 1.0) -> float:
    """The standardized statistic's boundary at a share of the horizon's information, for looks up to `horizons`.

    Beyond it (the last rows came in one batch) the last boundary applies.
    """
    at = min(share, horizons)
    return (line_intercept(alpha, slope, horizons) + slope * at) / math.sqrt(at)


def mixture_boundary(share: float, alpha: float) -> float:
    """The one-sided boundary without a horizon."""
    rho = _MIXTURE_SHARE / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    spread = share + rho
    return math.sqrt(2 * spread * math.log1p(math.sqrt(spread / rho) / (2 * alpha)) / share)
