"""Names of version 0.1 at the top level, and those they have now; they work for this version."""

RENAMED = {
    "FlowGuide": "FlowEncoder",
    "FullCovarianceNormal": "FullCovarianceNormalPrior",
    "Laplace": "LaplacePrior",
    "LearnedNormal": "LearnedNormalPrior",
    "MixtureOfGaussians": "GaussianMixturePrior",
    "StandardNormal": "StandardNormalPrior",
    "StudentT": "StudentTPrior",
    "UniformSphere": "UniformSpherePrior",
}
"""Old name to new."""
