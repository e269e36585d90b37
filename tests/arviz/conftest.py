import pytest


# Imported within: a conftest is read before the suite's filters of warnings are set.
@pytest.fixture
def linear():
    from ppl_vae.linear_gaussian import LinearGaussian

    return LinearGaussian.random(8, 3, noise_scale=0.8)


@pytest.fixture
def draws(linear):
    from ppl_vae.arviz import particles_to_datatree

    vae, x = linear.mean_field_vae(), linear.simulate(5)
    return particles_to_datatree(vae.model, vae.guide, x, num_particles=200)
