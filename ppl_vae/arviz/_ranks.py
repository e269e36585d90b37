"""ArviZ's own figure of a calibration's ranks."""

import importlib
import math
from typing import Any

from ppl_vae.diagnostics import Calibration

_COLUMNS = 4
_PANEL = 2.4, 2.0
"""Inches."""


def arviz_plots_works() -> bool:
    """Whether the extra ``plots`` is there, and can be imported."""
    try:
        _arviz_plots()
    except ImportError:
        return False
    return True


def plot_ranks(calibration: Calibration, *, count: int = 12, probability: float = 0.99) -> Any:
    """``arviz_plots.plot_ecdf_pit`` of the dimensions that look least calibrated.

    Each panel is a latent dimension: the ECDF of its ranks minus that of uniform ones, and the band
    that holds all of it with the given probability if that dimension is calibrated. A band is of
    one dimension: where the worst of many are shown, a line that just touches it is no surprise.
    ``Calibration.findings`` takes account of how many there are.

    Args:
        calibration: The ranks.
        count: How many dimensions to show, those with the smallest p-values.
        probability: Of each band.

    Raises:
        ImportError: If arviz-plots is not installed; names the extra.

    References:
        Säilynoja, Bürkner and Vehtari, 2022, Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison.
    """
    arviz_plots = _arviz_plots()
    worst = sorted(calibration.tests, key=lambda test: min(test.p_values.values()))[:count]
    names = [test.name for test in worst]
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    drawn = arviz_plots.plot_ecdf_pit(
        calibration.to_datatree(),
        var_names=names,
        ci_prob=probability,
        backend="matplotlib",
        col_wrap=columns,
        figure_kwargs={"figsize": (columns * _PANEL[0], rows * _PANEL[1] + 0.5)},
    )
    figure = drawn.viz["figure"].item()
    figure.set_layout_engine("constrained")
    # It is one of pyplot's, which would keep it for good.
    importlib.import_module("matplotlib.pyplot").close(figure)
    return figure


def _arviz_plots() -> Any:
    """The library arviz-plots; imported when a figure is drawn, since it takes seconds.

    Raises:
        ImportError: If it is not installed, or not for this matplotlib.
    """
    try:
        return importlib.import_module("arviz_plots")
    except (ImportError, AttributeError) as error:  # 0.8 needs a name that matplotlib 3.11 dropped
        raise ImportError(
            f"ArviZ's figures need arviz-plots ({error}): pip install 'ppl_vae[plots]'."
        ) from error
