"""Particles: K draws of the latents for each of B data, with every log-density kept apart.

This folder is the only place in the package that reads a Pyro program's sample sites. Every
objective, estimator and diagnostic is a function of the :class:`Particles` it returns.
"""

from ppl_vae.particles.draw import Graph, draw_particles, simulate
from ppl_vae.particles.particles import Particles, Simulation
from ppl_vae.particles.sites import Program

__all__ = ["Graph", "Particles", "Program", "Simulation", "draw_particles", "simulate"]
