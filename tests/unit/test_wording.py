"""Numbers in sentences."""

from bifusion.wording import plural


def test_one_is_not_plural():
    assert [plural(n, "scene") for n in (0, 1, 2, 1201)] == [
        "0 scenes", "1 scene", "2 scenes", "1,201 scenes",
    ]  # fmt: skip
