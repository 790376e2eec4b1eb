"""placeholder"""


def test_concurrent_writers_lose_nothing() -> None:
    pass
