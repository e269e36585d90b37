"""Optimisers: updates in closed form, names, state, the steps that take them."""

import math

import pyro
import pytest
import torch
from programs import binary_vae

from ppl_vae.data import binarize_batch
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.runs import RunConfig
from ppl_vae.training import (
    OPTIMIZERS,
    SGD,
    Adam,
    Adamax,
    AdamW,
    FitSettings,
    NormalizedAdam,
    OptimizerSettings,
    RAdam,
    Snapshot,
    TorchStep,
    fit,
)

from .helpers import GREY, VALID, InterruptAt, X, same_state, state_of, train, without_seconds

RATE = 0.05
VARIED = [
    "adam:beta1=0.8,beta2=0.9,eps=0.01",
    "adam:eps=0.01,eps_placement=inside",
    "adam:eps=0.01,eps_placement=uncorrected",
    "adam:eps=0.01,second_moment_start=1",
    "adamw:weight_decay=0.1",
    "adamax:beta1=0.8",
    "normalized-adam:beta1=0.8",
    "radam:beta2=0.9",
    "sgd:momentum=0.9,nesterov=true",
]
STEPS = ["torch", "svi", "alternating:2", "aggressive", "semi-amortised:2"]


def updates(optimizer, gradients, dtype=torch.float64):
    """Parameters after each update from (1, -2) and 3, as one vector."""
    parameters = [
        torch.tensor([1.0, -2.0], dtype=dtype, requires_grad=True),
        torch.tensor(3.0, dtype=dtype, requires_grad=True),
    ]
    built = optimizer.build(parameters)
    values = []
    for gradient in gradients:
        built.param_groups[0]["lr"] = RATE
        first, second = torch.tensor(gradient, dtype=dtype).split([2, 1])
        parameters[0].grad, parameters[1].grad = first, second.reshape(())
        built.step()
        values.append([*parameters[0].tolist(), parameters[1].item()])
    return values


GRADIENTS = [[0.5, -0.2, 3.0], [0.1, 0.4, -1.0], [-0.3, 0.2, 2.0]]


def adam_by_hand(gradients, b1, b2, start, step_of):
    """Each coordinate by itself, in Python's numbers."""
    values = [1.0, -2.0, 3.0]
    m, v, out = [0.0] * 3, [start] * 3, []
    for t, gradient in enumerate(gradients, 1):
        for i, g in enumerate(gradient):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            values[i] -= RATE * step_of(m[i], v[i], 1 - b1**t, 1 - b2**t)
        out.append(list(values))
    return out


PLACED = {
    "outside": lambda m, v, c1, c2: (m / c1) / (math.sqrt(v / c2) + 0.01),
    "inside": lambda m, v, c1, c2: (m / c1) / math.sqrt(v / c2 + 0.01),
    # The rate is corrected and eps is not: Kingma and Ba's section 2, and Burda's code.
    "uncorrected": lambda m, v, c1, c2: math.sqrt(c2) / c1 * m / (math.sqrt(v) + 0.01),
}


class TestClosedForms:
    @pytest.mark.parametrize("start", [0.0, 1.0])
    @pytest.mark.parametrize("placement", PLACED)
    def test_adam(self, placement, start):
        optimizer = Adam(0.8, 0.95, 0.01, placement, start)
        expected = adam_by_hand(GRADIENTS, 0.8, 0.95, start, PLACED[placement])
        for found, right in zip(updates(optimizer, GRADIENTS), expected, strict=True):
            assert found == pytest.approx(right, rel=1e-12)

    def test_placements_differ(self):
        ends = [updates(Adam(eps=0.01, eps_placement=p), GRADIENTS)[-1] for p in PLACED]
        for a, b in [(0, 1), (0, 2), (1, 2)]:
            assert ends[a] != pytest.approx(ends[b], rel=1e-3)

    def test_the_variant_has_torchs_numbers_where_they_mean_the_same(self):
        """At eps = 0 the placement does not matter."""
        ours = updates(Adam(eps=0.0, eps_placement="inside"), GRADIENTS)
        theirs = updates(Adam(eps=0.0), GRADIENTS)
        for a, b in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, rel=1e-12)

    def test_corrections_are_exact_in_float32(self):
        """1 - 0.999 in float32 would be 5e-5 off, and the first step the rate but for that."""
        gradients = [[1.0, 1.0, 1.0]]
        (found,) = updates(Adam(eps=0.0, eps_placement="inside"), gradients, torch.float32)
        assert found == pytest.approx([1 - RATE, -2 - RATE, 3 - RATE], rel=2e-7)

    def test_normalized_adam(self):
        """The pair is divided by its norm, the single one by its size."""
        gradients = []
        for a, b, c in GRADIENTS:
            norm = math.hypot(a, b) + 1e-7
            gradients.append([a / norm, b / norm, c / (abs(c) + 1e-7)])

        def step(m, v, c1, c2):
            return math.sqrt(c2) / c1 * m / (math.sqrt(v) + 1e-8)

        expected = adam_by_hand(gradients, 0.9, 0.999, 0.0, step)
        for found, right in zip(updates(NormalizedAdam(), GRADIENTS), expected, strict=True):
            assert found == pytest.approx(right, rel=1e-12)

    def test_normalized_adam_takes_no_notice_of_the_size_of_gradients(self):
        larger = [[1e3 * g for g in gradient] for gradient in GRADIENTS]
        a, b = (updates(NormalizedAdam(norm_eps=0.0), each)[-1] for each in (GRADIENTS, larger))
        assert a == pytest.approx(b, rel=1e-12)

    def test_adamw(self):
        """The first update of Adam is the sign of the gradient times the rate."""
        (found,) = updates(AdamW(weight_decay=0.1, eps=0.0), GRADIENTS[:1])
        kept = 1 - RATE * 0.1
        assert found == pytest.approx(
            [kept * 1 - RATE, kept * -2 + RATE, kept * 3 - RATE], rel=1e-12
        )

    def test_sgd(self):
        values, b = [1.0, -2.0, 3.0], GRADIENTS[0]
        values = [x - RATE * g for x, g in zip(values, b, strict=True)]
        b = [0.9 * old + g for old, g in zip(b, GRADIENTS[1], strict=True)]
        plain = [x - RATE * step for x, step in zip(values, b, strict=True)]
        assert updates(SGD(0.9), GRADIENTS[:2])[-1] == pytest.approx(plain, rel=1e-12)
        # Nesterov's steps are g + 0.9 b: 1.9 g at first.
        first = [x - RATE * 1.9 * g for x, g in zip([1.0, -2.0, 3.0], GRADIENTS[0], strict=True)]
        assert updates(SGD(0.9, True), GRADIENTS[:1])[0] == pytest.approx(first, rel=1e-12)
        bare = [x - RATE * g for x, g in zip([1.0, -2.0, 3.0], GRADIENTS[0], strict=True)]
        assert updates(SGD(), GRADIENTS[:1])[0] == pytest.approx(bare, rel=1e-12)

    def test_adamax(self):
        """u = |g| at first, so that the first step is the sign of the gradient."""
        found = updates(Adamax(beta2=0.9, eps=0.0), GRADIENTS[:2])
        assert found[0] == pytest.approx([1 - RATE, -2 + RATE, 3 - RATE], rel=1e-12)
        m = [0.9 * 0.1 * a + 0.1 * b for a, b in zip(*GRADIENTS[:2], strict=True)]
        u = [max(0.9 * abs(a), abs(b)) for a, b in zip(*GRADIENTS[:2], strict=True)]
        step = [RATE * mi / (1 - 0.9**2) / ui for mi, ui in zip(m, u, strict=True)]
        right = [x - s for x, s in zip(found[0], step, strict=True)]
        assert found[1] == pytest.approx(right, rel=1e-12)

    def test_radam_starts_without_the_second_moment(self):
        """Its first updates are of the corrected first moment alone: the gradient, at first."""
        (found,) = updates(RAdam(), GRADIENTS[:1])
        right = [x - RATE * g for x, g in zip([1.0, -2.0, 3.0], GRADIENTS[0], strict=True)]
        assert found == pytest.approx(right, rel=1e-12)


class TestVariant:
    def test_a_parameter_without_a_gradient_is_passed_over(self):
        a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
        built = Adam(eps_placement="inside").build([a, b])
        a.grad = torch.ones(2)
        built.step()
        assert a.abs().min() > 0
        assert not b.any()
        assert b not in built.state
        b.grad = torch.ones(2)
        built.step()
        # b's own first update, not its second.
        assert torch.allclose(b, torch.full((2,), -1e-3))

    @pytest.mark.parametrize("name", VARIED)
    def test_state_is_loaded_as_it_was(self, name):
        step, other = (
            TorchStep(ELBO(2), vae.model, vae.guide, dict(vae.named_parameters()),
                      optimizer=FitSettings(optimizer=name).optimizer_settings)
            for vae in (binary_vae(), binary_vae())
        )  # fmt: skip
        torch.manual_seed(1)
        for _ in range(3):
            step(X, 0.01)
        other.load_state({n: v.clone() for n, v in step.state().items()})
        assert step.state().keys() == other.state().keys()
        assert all(torch.equal(v, other.state()[n]) for n, v in step.state().items())
        other.load_state({})
        assert other.state() == {}

    def test_state_that_is_no_tensor_is_refused(self):
        class Counting(torch.optim.SGD):
            def step(self, closure=None):
                super().step(closure)
                for p in self.param_groups[0]["params"]:
                    self.state[p]["count"] = 1

        class Odd(OptimizerSettings):
            def build(self, parameters):
                return Counting(parameters)

        with pytest.raises(TypeError, match=r"keeps count/[^\n]* = 1, which no checkpoint holds"):
            train(step=TorchStep, optimizer=Odd(), epochs=2)


class TestNames:
    def test_are_read(self):
        for name, optimizer in {
            "adam": Adam(),
            "adam:beta1=0.99,eps=1e-4": Adam(0.99, eps=1e-4),
            "adam:0.99,0.9": Adam(0.99, 0.9),
            "adam:eps_placement=uncorrected,second_moment_start=1":
                Adam(eps_placement="uncorrected", second_moment_start=1.0),
            "adamw:0.1": AdamW(0.1),
            "sgd:0.9,true": SGD(0.9, True),
            "normalized-adam": NormalizedAdam(),
            "radam:beta2=0.9": RAdam(beta2=0.9),
            "adamax": Adamax(),
        }.items():  # fmt: skip
            assert FitSettings(optimizer=name).optimizer_settings == optimizer

    @pytest.mark.parametrize(
        "optimizer", [Adam(), Adam(0.99, eps_placement="inside"), SGD(0.9, True), AdamW(eps=1e-4)]
    )
    def test_an_object_is_kept_by_name(self, optimizer):
        settings = FitSettings(optimizer=optimizer)
        assert isinstance(settings.optimizer, str)
        assert FitSettings(optimizer=settings.optimizer).optimizer_settings == optimizer
        config = RunConfig.of(optimizer=optimizer)
        assert RunConfig.from_mapping(config.complete()).training == config.training

    def test_the_default_is_fused_adam_of_torch(self):
        built = FitSettings().optimizer_settings.build([torch.zeros(2, requires_grad=True)])
        assert isinstance(built, torch.optim.Adam)
        assert built.defaults == torch.optim.Adam([torch.zeros(2)], fused=True).defaults

    @pytest.mark.parametrize("argument", ["lr=1e-3", "learning_rate=1e-3"])
    def test_a_rate_has_one_place(self, argument):
        for settings in ({}, {"learning_rate": 0.1}):
            with pytest.raises(
                ValueError, match=r"^[^\n]*rate is the setting learning_rate[^\n]*$"
            ):
                FitSettings(optimizer=f"adam:{argument},beta1=0.9", **settings)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("adan", "unknown optimizer 'adan': did you mean 'adam'"),
            ("adam:beta3=1", "unknown argument 'beta3'"),
            ("adam:beta1=1", r"beta1 must be in \[0, 1\), got 1.0"),
            ("adam:beta2=-0.1", r"beta2 must be in \[0, 1\), got -0.1"),
            ("adam:eps=-1", "eps must be 0 or more and finite, got -1.0"),
            ("adam:eps_placement=below", "eps_placement cannot be 'below'"),
            ("adam:second_moment_start=-1", "second_moment_start must be 0 or more"),
            ("normalized-adam:norm_eps=-1", "norm_eps must be 0 or more"),
            ("adamw:-1", "weight_decay must be 0 or more"),
            ("sgd:1.5", r"momentum must be in \[0, 1\)"),
            ("sgd:nesterov=true", "nesterov needs momentum above 0"),
            ("os:system", "unknown optimizer 'os:system'"),
        ],
    )
    def test_errors_are_one_line(self, name, message):
        with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
            FitSettings(optimizer=name)

    def test_other_values(self, unchecked_types):
        with pytest.raises(ValueError, match="eps_placement is outside, inside or uncorrected"):
            Adam(eps_placement="below")
        with pytest.raises(TypeError, match=r"optimizer is <class .*: give a name"):
            FitSettings(optimizer=torch.optim.Adam)
        with pytest.raises(ValueError, match="keep is best or last, got 'first'"):
            FitSettings(keep="first")

    def test_a_run_refuses_an_optimizer_without_a_name(self):
        class Mine(OptimizerSettings):
            def build(self, parameters):
                return torch.optim.SGD(parameters)

        with pytest.raises(ValueError, match=r"has no name that a run's file can keep"):
            RunConfig.of(optimizer=Mine())


class TestTraining:
    # Torch's own step and Pyro's are compared below, with every one.
    @pytest.mark.parametrize("step", STEPS[2:])
    @pytest.mark.parametrize("name", VARIED)
    def test_every_step_trains_with_every_optimizer(self, step, name):
        start = binary_vae()
        end, _ = train(start := binary_vae(), step=step, optimizer=name, epochs=1, batch_size=40)
        assert start is end
        assert not same_state(end, binary_vae())

    @pytest.mark.parametrize("name", VARIED)
    def test_both_steps_agree(self, name):
        """SVI has an optimiser for each parameter: norms and moments are of each."""
        ends = []
        for step in ("torch", "svi"):
            pyro.clear_param_store()
            vae = binary_vae(learned_prior=True).double()
            start = state_of(vae)
            ends.append(state_of(train(vae, X.double(), step=step, optimizer=name, epochs=2)[0]))
            assert not same_state(start, ends[-1])
        for key, value in ends[0].items():
            assert torch.allclose(value, ends[1][key], rtol=1e-9, atol=1e-12), key

    @pytest.mark.parametrize(
        ("step", "name"),
        [
            *(("torch", name) for name in VARIED),
            # How a step keeps the state of an optimiser is its own; which state that is, is not.
            *((step, name) for step in ("svi", "alternating:1") for name in VARIED[-3:]),
        ],
    )
    def test_a_resumed_run_is_the_undisturbed_one(self, step, name, tmp_path):
        settings = {
            "step": step, "optimizer": name, "epochs": 3, "valid": VALID, "learning_rate": 0.01,
            "validation_particles": 5, "checkpoint_seconds": 0.0, "objective": IWAE(2),
        }  # fmt: skip
        whole, expected = train(x=GREY, transform=binarize_batch, **settings)
        path = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            train(x=GREY, transform=InterruptAt(9), checkpoint=path, **settings)
        pyro.clear_param_store()
        resumed, result = train(
            binary_vae(seed=3), GREY, transform=binarize_batch, checkpoint=path, **settings
        )
        assert same_state(whole, resumed)
        assert without_seconds(result.history) == without_seconds(expected.history)

    def test_another_optimizer_is_another_run(self, tmp_path):
        path = tmp_path / "run"
        train(checkpoint=path, epochs=1)
        with pytest.raises(
            ValueError, match=r"other settings: optimizer None there, Adam\(beta1=0"
        ):
            train(checkpoint=path, optimizer="adam:beta1=0.8")
        train(checkpoint=tmp_path / "other", optimizer="sgd", epochs=1)
        with pytest.raises(ValueError, match=r"optimizer SGD\(momentum=0.0, .* there, None here"):
            train(checkpoint=tmp_path / "other")

    def test_a_checkpoint_of_adam_says_nothing_of_optimizers(self, tmp_path):
        train(checkpoint=tmp_path / "run", epochs=1)
        saved = Snapshot.load(tmp_path / "run")
        assert not {"optimizer", "ema_decay", "keep", "unshuffled", "warmup_epochs"} & set(
            saved.identity
        )
        assert {key.partition("/")[0] for key in saved.optimizer} == {
            "compiled", "step", "exp_avg", "exp_avg_sq"
        }  # fmt: skip
        # The same run, named in full.
        train(checkpoint=tmp_path / "run", epochs=2, optimizer="adam:beta1=0.9")

    def test_a_step_of_ones_own(self):
        """It need not know of optimisers, unless there is one to take."""
        seen = []

        def plain(objective, model, guide, parameters, clip_norm):
            return TorchStep(objective, model, guide, parameters, clip_norm)

        def knowing(objective, model, guide, parameters, clip_norm, *, optimizer):
            seen.append(optimizer)
            return TorchStep(objective, model, guide, parameters, clip_norm, optimizer=optimizer)

        train(step=plain, epochs=1)
        with pytest.raises(ValueError, match=r"^step plain takes no optimizer, got 'sgd': [^\n]*$"):
            train(step=plain, optimizer="sgd")
        train(step=knowing, optimizer="sgd:0.5", epochs=1)
        assert seen == [SGD(0.5)]

    def test_an_optimizer_of_ones_own(self):
        class Mine(OptimizerSettings):
            def build(self, parameters):
                return torch.optim.RMSprop(parameters)

        vae, _ = train(optimizer=Mine(), epochs=1)
        assert not same_state(vae, binary_vae())

    def test_every_name_has_a_summary(self):
        assert all(OPTIMIZERS.summary(name) for name in OPTIMIZERS)
        assert all("References:" in build.__doc__ for build in OPTIMIZERS.values())

    def test_in_ones_own_loop(self):
        vae = binary_vae()
        parameters = dict(vae.named_parameters())
        step = TorchStep(ELBO(2), vae.model, vae.guide, parameters, optimizer=SGD(0.9))
        before = state_of(vae)
        step(X, 0.01)
        assert not same_state(vae, before)


def test_fit_takes_an_optimizer_as_an_object():
    vae, other = binary_vae(), binary_vae()
    for model, optimizer in ((vae, Adam(0.99)), (other, "adam:beta1=0.99")):
        fit(model.model, model.guide, ELBO(2), X, epochs=2, progress=False, optimizer=optimizer)
    assert same_state(vae, other)
