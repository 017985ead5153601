import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.scheduling.fit import Fit, FreeNodes


def test_the_fullest_node_that_fits_is_taken_first():
    assert FreeNodes({0: 8, 1: 3, 2: 2, 3: 4}).find(1, 3) == Fit((1,), 0)


def test_among_equals_the_lowest_ordinal_is_taken():
    assert FreeNodes({9: 4, 5: 4, 7: 4}).find(2, 4) == Fit((5, 7), 0)


def test_a_gang_spans_buckets_and_counts_what_stays_over():
    assert FreeNodes({0: 8, 1: 4, 2: 5}).find(3, 4) == Fit((0, 1, 2), 5)


@pytest.mark.parametrize(("nodes", "slots"), [(3, 5), (1, 9), (4, 1)])
def test_a_gang_gets_all_or_nothing(nodes, slots):
    free = FreeNodes({0: 8, 1: 5, 2: 4})
    assert free.find(nodes, slots) is None
    assert free.count(1) == 3


def test_nothing_fits_a_node_that_is_oversubscribed():
    free = FreeNodes({0: -2})
    assert free.find(1, 1) is None
    free.give((0,), 3)
    assert free.find(1, 1) == Fit((0,), 0)


def test_withdrawn_nodes_are_in_the_new_set_only():
    free = FreeNodes({0: 8, 1: 5})
    kept = free.withdraw((0,))
    assert (0 in free, 0 in kept, kept.free(0), free.count(1), kept.count(1)) == (
        False,
        True,
        8,
        1,
        1,
    )


@given(
    st.dictionaries(st.integers(0, 12), st.integers(-2, 8), max_size=10),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 8)), max_size=8),
)
def test_find_is_the_best_of_a_full_scan_and_give_undoes_take(start, asks):
    free, naive = FreeNodes(start), dict(start)
    done = []
    for nodes, slots in asks:
        best = sorted((left, node) for node, left in naive.items() if left >= slots)[:nodes]
        fit = free.find(nodes, slots)
        assert free.count(slots) == sum(left >= slots for left in naive.values())
        if len(best) < nodes:
            assert fit is None
            continue
        assert fit == Fit(
            tuple(sorted(node for _, node in best)), sum(left - slots for left, _ in best)
        )
        free.take(fit.nodes, slots)
        for node in fit.nodes:
            naive[node] -= slots
        done.append((fit.nodes, slots))
    for nodes, slots in reversed(done):
        free.give(nodes, slots)
    assert {node: free.free(node) for node in start} == start
