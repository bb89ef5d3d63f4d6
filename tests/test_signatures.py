"""The checks of signatures under pytest, which `tests/signatures.py` makes cheap."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tests.signatures import check

two, three = torch.zeros(2), torch.zeros(3)


def add(a: Float[Tensor, " n"], b: Float[Tensor, " n"], start: int = 0) -> Float[Tensor, " n"]:
    return (a + b)[start:]


def as_many(count: int) -> Float[Tensor, "{count}"]:
    return three


def as_long(text: "str") -> "str":
    return text


def rows(a: Float[Tensor, "n c"]) -> Iterator[Float[Tensor, " c"]]:
    yield from a


def length(text: str) -> int:
    return len(text) or "0"


@dataclass
class Pair:
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]


@pytest.mark.parametrize(
    ("fn", "right", "wrong"),
    [
        pytest.param(add, (three, three), (three, two), id="sizes"),
        pytest.param(add, (three, three), (three, three, 1), id="returned size"),
        pytest.param(add, (three, three), (three, three.int()), id="dtype"),
        pytest.param(as_many, (3,), (4,), id="size by argument"),
        pytest.param(rows, (torch.zeros(3, 2),), (three,), id="generator"),
        pytest.param(length, ("a",), (1,), id="type"),
        pytest.param(length, ("a",), ("",), id="returned type"),
        pytest.param(as_long, ("a",), (1,), id="type as a string"),
        pytest.param(Pair, (three, three), (three, two), id="dataclass"),
    ],
)
def test_wrong_calls_are_refused(fn, right, wrong):
    checked = check(fn)
    checked(*right)
    with pytest.raises(Exception, match=r"violates|Type-check"):
        checked(*wrong)


def test_sizes_of_one_call_do_not_bind_another():
    checked = check(add)
    assert len(checked(three, three)) == 3
    assert len(checked(two, two)) == 2


def test_inner_functions_are_checked_each_with_what_it_encloses():
    def adds(more: int):
        def inner(a: int) -> int:
            return a + more

        def sized(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> int:
            return len(a) + len(b) + more

        return check(inner), check(sized)

    for more in (1, 2, 3):
        inner, sized = adds(more)
        assert inner(1) == 1 + more
        assert sized(two, two) == 4 + more
        for function, wrong in ((inner, ("1",)), (sized, (two, three))):
            with pytest.raises(Exception, match=r"violates|Type-check"):
                function(*wrong)


def test_disabled_nothing_is_checked(unchecked):
    assert len(check(add)(three, three, 1)) == 2


def test_the_packages_are_checked():
    from model.pooling import average
    from pipeline.draws import generator

    with pytest.raises(Exception, match="violates"):
        generator("0", "flip", 0)
    with pytest.raises(Exception, match="violates"):
        average(three)
