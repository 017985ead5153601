"""A share with a limit never uses more, whatever idles."""

from dure.rehearsal.book import Book
from dure.rehearsal.nation import Nation
from dure.rehearsal.record import NullRecord
from dure.rehearsal.stage import Place, Stage
from dure.rehearsal.workload import Arrival, Kind
from dure.scheduling.tuning import Tuning
from dure.shares import Share, ShareKind, Shares


class Peaks(NullRecord):
    """The most GPUs in use at a time."""

    def __init__(self):
        super().__init__()
        self.used = self.peak = 0

    def use_changed(self, _at_ms, _owner, _borrower, delta_gpus):
        self.used += delta_gpus
        self.peak = max(self.peak, self.used)


def test_a_limit_on_a_share_holds_for_all_below_it_and_all_its_jobs_end():
    shares = Shares(
        (
            Share(id="national", kind=ShareKind.PROGRAMME, limit_gpus=12),
            Share(id="national.a", kind=ShareKind.PROJECT, parent="national"),
            Share(id="national.b", kind=ShareKind.PROJECT, parent="national", limit_gpus=4),
        )
    )
    place = Place(pool="p", owner="op", gpu_model="h100", gpus_per_node=8, nodes=8)
    stage = Stage([place], shares, Tuning(), lambda _kind, _pool: True)
    kinds = [
        Kind(share=share, operator="op", project=share, user="u", gpus_per_node=gpus)
        for share, gpus in (("national.a", 8), ("national.b", 4), ("national.b", 2))
    ]
    peaks = Peaks()
    nation = Nation(stage, Book(stage, peaks))
    arrivals = [Arrival(at * 1_000, kinds[at % 3], 60_000, id=str(at)) for at in range(30)]
    nation.play(arrivals)
    assert nation.book.measures.summary({}).jobs == 30
    assert peaks.peak == 12
