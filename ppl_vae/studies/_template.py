"""A study's file to start from, which says what may stand in it."""

TEMPLATE = """\
# A study: every combination of levels (an arm) is trained with every seed, evaluated on the same
# data with the same random numbers, and compared. Run it, stop it, and go on with
#
#   ppl-vae study run {path}

question: Does a tighter bound give a better model?

# Settings that all arms share, as of ppl-vae fit (--learning-rate is learning_rate here).
config:
  data: {data}
  latent: 20
  hidden: [100, 100]
  learning_rate: 3e-3
  patience: 20

# What varies: any setting, each with a list of levels. ppl-vae objectives and ppl-vae parts list
# the names; a class of your own is module:Class, or {{class_path: module.Class, init_args: {{}}}}.
factors:
  objective: [elbo, "iwae:50"]
  # prior: [normal, "vamp:50"]
  # learning_rate: [1e-3, 3e-3]

# How many training runs of each arm, or a list of seeds. Two are the least that say anything of
# another training run.
seeds: 5

# One of epochs, updates, seconds, decoder_evaluations: what each training run may spend. With
# objectives that differ in their number of particles, equal epochs are not equal work.
budget:
  epochs: 200

evaluation:
  split: test
  # limit: 500          # only so many data
  # shards: 1           # parts that the evaluation of one run is cut in
  # The first method is compared by; ppl-vae evaluate --help lists methods and their options.
  methods:
    - {{method: iwae, particles: 1000}}
    # - {{method: ais, temperatures: 500}}

# Beside log p(x): decomposition, bound_curve, pictures; gradients and sandwich take longer.
measures: [decomposition, bound_curve, pictures]

# The arm that all others are compared with; without one, all pairs are compared (up to 12 arms).
# reference: elbo
confidence: 0.95

# Of one training run. On Ray, gpus may be a part of one, such as 0.25.
resources:
  cpus: 1
  gpus: 0
"""
