"""The checks that the suite puts on the package find what they are for."""

import dataclasses
from typing import Literal

import pytest
import torch
import typecheck
from jaxtyping import Float
from torch import Tensor

from ppl_vae.weights import log_mean_exp


@typecheck.checked
def add(a: Float[Tensor, "batch"], b: Float[Tensor, "batch"]) -> Float[Tensor, "1"]:
    return a + b


@typecheck.checked
def repeat(text: str, times: float = 1) -> "str":
    return text * times


@typecheck.checked
@dataclasses.dataclass(frozen=True)
class Pair:
    first: Float[Tensor, "batch latent"]
    second: Float[Tensor, "batch"]


def test_right_calls():
    assert add(torch.ones(1), torch.ones(1)).tolist() == [2.0]
    assert repeat("a", times=2) == "aa"
    assert Pair(torch.ones(2, 3), torch.ones(2)).second.shape == (2,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: add(torch.ones(1), torch.ones(2)),
        lambda: add(torch.ones(1), torch.ones(1, dtype=torch.long)),
        lambda: add(torch.ones(2), torch.ones(2)),
        lambda: repeat(3),
        lambda: repeat("a", times="b"),
        lambda: Pair(torch.ones(2, 3), torch.ones(3)),
        lambda: log_mean_exp([1.0]),
    ],
    ids=["dimensions", "kind", "result", "type", "keyword", "dataclass", "the package's"],
)
def test_wrong_calls(call):
    with pytest.raises(TypeError):
        call()


def test_like_calls_are_not_checked_again_but_other_results_are():
    changing = []

    @typecheck.checked
    def last(a: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        return a[len(changing) :]

    for _ in range(3):
        assert last(torch.ones(4)).shape == (4,)
    changing.append("now")
    with pytest.raises(TypeError, match="return is no"):
        last(torch.ones(4))
    with pytest.raises(TypeError):
        last(torch.ones(4).long())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (["a", "b"], [2, 3]),
        ({"a": torch.ones(2)}, {"a": torch.ones(2, 2)}),
        ((torch.ones(2),), (torch.ones(2, 1),)),
        ("one", "three"),
        (Pair, dict),
    ],
    ids=["list", "dict", "tuple", "word", "class"],
)
def test_what_is_inside_counts(right, wrong):
    hints = {
        list: list[str],
        dict: dict[str, Float[Tensor, "batch"]],
        tuple: tuple[Float[Tensor, "batch"], ...],
        str: Literal["one", "two"],
        type: type[Pair],
    }

    def take(value):
        return value

    take.__annotations__["value"] = hints[type(right)]
    take = typecheck.checked(take)
    for _ in range(2):
        assert take(right) is right
    for _ in range(2):
        with pytest.raises(TypeError):
            take(wrong)


def test_one_call_binds_no_other():
    add(torch.ones(1), torch.ones(1))
    with pytest.raises(TypeError):
        add(torch.ones(2), torch.ones(1))
    add(torch.ones(1), torch.ones(1))


def test_a_function_inside_of_another_is_compiled_once(monkeypatch):
    compiled, compile_check = [], typecheck._compile

    def counted(function, hints):
        compiled.append(function)
        return compile_check(function, hints)

    monkeypatch.setattr(typecheck, "_compile", counted)

    def scaled(a, factor):
        @typecheck.checked
        def scale(b: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
            return b * factor

        return scale(a)

    assert [scaled(torch.ones(2), factor).tolist() for factor in (2, 3)] == [[2, 2], [3, 3]]
    assert len(compiled) == 1
    for _ in range(2):
        with pytest.raises(TypeError):
            scaled(torch.ones(2, 2), 4)


def test_unchecked(unchecked_types):
    assert add(torch.ones(2), torch.ones(2)).shape == (2,)


def test_a_loop_is_looked_at_again_and_again():
    """What goes wrong after many calls is found within 16."""
    for _ in range(100):
        add(torch.ones(1), torch.ones(1))

    def loop():
        for _ in range(16):
            add(torch.ones(2), torch.ones(1))

    with pytest.raises(TypeError):
        loop()
