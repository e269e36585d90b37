"""What a trained model and guide are like."""

from ppl_vae.diagnostics.decomposition import (
    ActiveUnits,
    Decomposition,
    Estimate,
    PerDimension,
    decompose,
)

__all__ = ["ActiveUnits", "Decomposition", "Estimate", "PerDimension", "decompose"]
