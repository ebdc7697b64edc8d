"""Means, their errors, and whether a difference is more than chance."""

import math

import numpy as np
from scipy import optimize, stats


def statistics(values, baseline, paired=True):
    """Mean, standard error, difference of the means, and p of Student's paired t-test.

    With `paired=False`, that of Welch. Of fewer than two seeds, or where all
    differences are equal, p is NaN.
    """
    values, baseline = np.asarray(values), np.asarray(baseline)
    mean, difference = values.mean(), values.mean() - baseline.mean()
    if len(values) < 2:
        return mean, math.nan, difference, math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    spread = values - baseline if paired else np.append(values, baseline)
    if not np.isfinite(spread).all() or np.ptp(spread) == 0:
        return mean, error, difference, math.nan
    if paired:
        p = stats.ttest_rel(values, baseline).pvalue
    else:
        p = stats.ttest_ind(values, baseline, equal_var=False).pvalue
    return mean, error, difference, float(p)


def holm(p_values):
    """Corrects the p of several rows for their number; NaN is no row, and stays NaN.

    The smallest of n is multiplied by n, the next by n - 1, and so on, and none is
    smaller than one before it. Calling below 0.05 what is below 0.05 here errs in any
    row at all with a probability of at most 5 %.
    """
    p = np.asarray(p_values, "float64")
    corrected = np.full(p.shape, math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def corrected(pairs):
    """`statistics` of each of the pairs, a dict; p is corrected for all of them."""
    found = {name: statistics(*pair) for name, pair in pairs.items()}
    p_values = holm([p for *_, p in found.values()])
    return {
        name: (*numbers, p)
        for (name, (*numbers, _)), p in zip(found.items(), p_values, strict=True)
    }


def detectable(spread, seeds, power=0.8, level=0.05):
    """The smallest difference that a study can be expected to see.

    Where the differences between pairs have the standard deviation `spread`, and their
    mean is this, the two-sided paired t-test of so many seeds is below `level` with the
    probability `power`. Infinite with fewer than two seeds.
    """
    if seeds < 2:
        return math.inf
    critical = stats.t.ppf(1 - level / 2, seeds - 1)

    # What falls below the lower critical value is next to nothing at such a power.
    size = optimize.brentq(
        lambda size: stats.nct.sf(critical, seeds - 1, size * seeds**0.5) - power, 0, 20
    )
    return spread * size
