"""Who lends a borrower its GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dure.lending import Lent, Standing, lenders

NAMES = ("hyundai", "national", "national.lab", "samsung", "sk")


def pool(in_service: int, promised: Mapping[str, int], **changes: Any) -> Standing:
    return Standing(
        in_service=in_service,
        promised=promised,
        **({"in_use": {}, "lent": {}, "borrowed": 0} | changes),
    )


def test_what_nobody_is_promised_goes_first():
    standing = pool(40, {"samsung": 32})
    assert lenders(8, ["sk"], standing) == ()
    assert lenders(12, ["sk"], standing) == (Lent("samsung", 4),)


def test_what_others_borrowed_of_it_already_is_gone():
    standing = pool(40, {"samsung": 32}, borrowed=8)
    assert lenders(8, ["sk"], standing) == (Lent("samsung", 8),)


def test_owners_lend_in_proportion_to_what_idles():
    standing = pool(32, {"samsung": 16, "hyundai": 16}, in_use={"samsung": 8})
    assert lenders(9, ["sk"], standing) == (Lent("hyundai", 6), Lent("samsung", 3))


def test_nobody_lends_to_itself_or_to_what_is_below_it():
    standing = pool(16, {"national": 8, "national.lab": 8})
    own = ("national.lab", "national")
    assert lenders(4, own, standing) == ()
    assert lenders(4, ("national.other", "national"), standing) == (Lent("national.lab", 4),)


COUNTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 50))


@given(st.integers(1, 100), st.sets(st.sampled_from(NAMES)), COUNTS, COUNTS, COUNTS, st.data())
def test_no_more_is_lent_than_is_borrowed_or_idles(gpus, own, promised, in_use, lent, data):
    in_service = data.draw(st.integers(sum(promised.values()), sum(promised.values()) + 50))
    borrowed = sum(lent.values()) + data.draw(st.integers(0, 50))
    standing = pool(in_service, promised, in_use=in_use, lent=lent, borrowed=borrowed)
    found = lenders(gpus, own, standing)
    assert sum(one.gpus for one in found) <= gpus
    assert not own & {one.lender for one in found}
    for one in found:
        idle = promised[one.lender] - in_use.get(one.lender, 0) - lent.get(one.lender, 0)
        assert 1 <= one.gpus <= idle
    turned = pool(
        in_service,
        dict(reversed(promised.items())),
        in_use=in_use,
        lent=lent,
        borrowed=borrowed,
    )
    assert lenders(gpus, own, turned) == found


@given(st.integers(1, 64), st.integers(0, 10**12), st.data())
def test_the_parts_of_an_attempt_never_exceed_the_whole(gpus, gpu_ms, data):
    promised = data.draw(COUNTS)
    found = lenders(gpus, (), pool(sum(promised.values()), promised))
    assert sum(one.part_of(gpu_ms, gpus) for one in found) <= gpu_ms
