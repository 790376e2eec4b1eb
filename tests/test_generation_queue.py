"""The queue of CVs that wait: once each, in order, bounded, and still there after a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from girl_features.errors import StoreError
from girl_features.lookup.generation_queue import BackgroundQueue, GenerationQueue, MissedCV

A, B = "a" * 12, "b" * 12


def offer(seeker: str, cv: str = "welder", contract: str = A) -> MissedCV:
    return MissedCV(contract, seeker, f"hash of {cv}", cv)


def test_each_cv_waits_once_and_the_oldest_comes_first(tmp_path: Path) -> None:
    queue = GenerationQueue(tmp_path / "queue.db")
    assert queue.add([offer("s1"), offer("s2"), offer("s1")]) == 2
    assert queue.add([offer("s2"), offer("s1", "foreman"), offer("s1", contract=B)]) == 2
    assert [one.missed for one in queue.take(A, 10)] == [offer("s1"), offer("s2"), offer("s1", "foreman")]
    assert [one.missed.job_seeker_id for one in queue.take(A, 2)] == ["s1", "s2"], "what is taken stays until done"
    queue.done([one.place for one in queue.take(A, 2)])
    assert [one.missed for one in queue.take(A, 10)] == [offer("s1", "foreman")]
    assert queue.lengths() == {A: 1, B: 1}


def test_two_versions_offered_at_once_differ_in_time(tmp_path: Path) -> None:
    queue = GenerationQueue(tmp_path / "queue.db")
    queue.add([offer("s1"), offer("s1", "foreman")])
    first, second = queue.take(A, 2)
    assert first.queued_at < second.queued_at


def test_it_is_bounded_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    assert GenerationQueue(path, max_length=3).add([offer(f"s{i}") for i in range(5)]) == 3
    again = GenerationQueue(path, max_length=3)
    assert [one.missed.job_seeker_id for one in again.take(A, 9)] == ["s0", "s1", "s2"]
    assert again.add([offer("s9")]) == 0
    again.done([again.take(A, 1)[0].place])
    assert again.add([offer("s9")]) == 1
    assert path.stat().st_mode & 0o077 == 0, "it holds CVs: nobody else may read it"


@pytest.mark.parametrize("name", ["", "  ", "\ud800", "a\0b", "tab\there", "x" * 513])
def test_ids_that_no_table_would_hold_do_not_wait(tmp_path: Path, name: str) -> None:
    assert GenerationQueue(tmp_path / "queue.db").add([offer(name)]) == 0


@pytest.mark.parametrize("name", ["'; DROP TABLE waiting; --", "../../etc", "\u202eright to left", "日本"])
def test_hostile_ids_are_ids(tmp_path: Path, name: str) -> None:
    queue = GenerationQueue(tmp_path / "queue.db")
    assert queue.add([offer(name)]) == 1
    assert queue.take(A, 1)[0].missed == offer(name)


def test_an_erased_cv_is_gone_to_the_last_byte(tmp_path: Path) -> None:
    queue = GenerationQueue(tmp_path / "queue.db")
    queue.add([offer("s1", "a canary who sings in mines"), offer("s2")])
    assert queue.erase("s1") == 1
    assert [one.missed for one in queue.take(A, 9)] == [offer("s2")]
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.iterdir())


def test_offers_of_erased_seekers_are_not_kept(tmp_path: Path) -> None:
    queue = GenerationQueue(tmp_path / "queue.db", is_erased=lambda name: name == "s1")
    assert queue.add([offer("s1", "a canary who sings in mines"), offer("s2")]) == 1
    assert [one.missed for one in queue.take(A, 9)] == [offer("s2")]
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(b"no database at all, but long enough to look like one" * 100)
    with pytest.raises(StoreError, match="delete it: services offer again"):
        GenerationQueue(path)


def test_many_services_and_workers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    seen: list[str] = []

    def serve(number: int) -> None:
        queue = GenerationQueue(path)
        for i in range(25):
            queue.add([offer(f"{number}-{i}"), offer(f"shared-{i}")])

    with ThreadPoolExecutor(4) as pool:
        services = [pool.submit(serve, n) for n in range(4)]
        queue = GenerationQueue(path)
        while not all(service.done() for service in services) or queue.lengths():
            waiting = queue.take(A, 7)
            queue.done([one.place for one in waiting])
            seen += [one.missed.job_seeker_id for one in waiting]
        for service in services:
            service.result()
    own = [name for name in seen if not name.startswith("shared")]
    assert sorted(own) == sorted(f"{n}-{i}" for n in range(4) for i in range(25))


def test_a_service_offers_without_waiting_and_only_once_a_moment(tmp_path: Path) -> None:
    file = GenerationQueue(tmp_path / "queue.db")
    offers = BackgroundQueue(file)
    for _ in range(3):
        offers.add([offer("s1"), offer("s2")])
    assert offers.flush()
    waiting = file.take(A, 9)
    assert [one.missed for one in waiting] == [offer("s1"), offer("s2")]
    file.done([one.place for one in waiting])
    offers.add([offer("s1")])
    offers.close()
    assert file.lengths() == {}, "offered a moment ago: a seeker asked for every second is not generated for again"
    assert offers.n_dropped == 0


def test_a_service_lives_on_where_the_queue_does_not(tmp_path: Path) -> None:
    file = GenerationQueue(tmp_path / "queue.db")
    offers = BackgroundQueue(file)
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged" * 1000)
    offers.add([offer("s1")])
    assert offers.flush()
    offers.close()
    assert offers.n_dropped == 1
