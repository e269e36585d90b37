"""Figures from result objects."""

from ppl_vae.plots.figures import (
    plot_bound_curve,
    plot_calibration,
    plot_comparison,
    plot_histories,
    plot_images,
    plot_profiles,
    plot_rate_distortion,
    plot_sandwich,
    plot_signal_to_noise,
)

__all__ = [
    "plot_bound_curve",
    "plot_calibration",
    "plot_comparison",
    "plot_histories",
    "plot_images",
    "plot_profiles",
    "plot_rate_distortion",
    "plot_sandwich",
    "plot_signal_to_noise",
]
