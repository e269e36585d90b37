"""Estimators of log p(x) that anneal from a start to the posterior."""
