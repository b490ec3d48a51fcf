from collections.abc import Iterator

import pytest

from flowdet.errors import FlowdetError
from flowdet.work.jobs import Tries, Try


def test_jobs_are_taken_one_by_one_and_tried_again_after_the_others() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    tries = Tries(jobs(), 1)
    first = tries.take()
    assert first == Try(0)
    assert taken == [0]
    assert tries.died(first, "died", is_loaded=True) is None
    assert [tries.take() for _ in range(4)] == [Try(1), Try(2), Try(0, 1), None]
    failed = tries.died(Try(0, 1), "died", is_loaded=True)
    assert failed is not None
    assert failed.job == 0
    assert str(failed.error) == "its worker died, in each of 2 tries"
    assert tries.take() is None


def test_a_job_is_not_to_blame_for_a_worker_that_cannot_start() -> None:
    tries = Tries([0], 2)
    for _ in range(3):
        trying = tries.take()
        assert trying == Try(0)
        assert tries.died(trying, "died", is_loaded=False) is None
    tries.loaded()
    for _ in range(3):
        assert tries.died(Try(0), "died", is_loaded=False) is None
    with pytest.raises(FlowdetError, match="a worker died while it loaded, as others did before"):
        tries.died(Try(0), "died", is_loaded=False)
