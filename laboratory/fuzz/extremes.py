"""What stands where a file has a number or a text, to overflow, mislead or escape."""

from __future__ import annotations

from typing import Any

NUMBERS = (
    "0", "-1", "1", "2", "255", "256", "65536", "2147483647", "2147483648", "-2147483649", "4294967296",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616",
    "1" + "0" * 30, "9" * 400, "1e308", "-1e308", "1e309", "1e-320", "0.5", "-0.0", "nan", "inf", "-inf",
    "NaN", "Infinity", "0x10", "1_000", "1,5", "٣", "²", "", "-", "1e", "e5",
)  # fmt: skip
TEXTS = (
    "", " ", "\x1b[2J", "\0", "a\nb", "..", "../../../../etc/passwd", "/dev/zero", "C:\\x", "x" * 300,
    "ü" * 200, "\u202eabc", "\ufeff", "%s%n", "{}", "<script>", "\ud800", "a/b", ".", "nul", "é" * 5000,
)  # fmt: skip
WORDS = (
    0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FC00000,
    0x7F800000, 0xFF800000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF,
    0x7FF0000000000000, 0x7FF8000000000000, 10**9, 50_000,
)  # fmt: skip
"""Bit patterns: limits of whole numbers, NaN and infinities as float32 and float64, large counts."""


def json_values() -> tuple[Any, ...]:
    """Values of every type that JSON has, and some that it has not; new ones each time."""
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    doubled: Any = [1, 2]
    for _ in range(10):
        doubled = [doubled, doubled]
    return (
        None, True, False, 0, -1, 1, 2, 10**9, 2**31, 2**63 - 1, 2**63, 2**64, -(2**70), 10**400, 0.5,
        -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"), "", "1", "x" * 5000, "\ud83d",
        "\x1b[31m", "../..", "nan", [], {}, [[]], {"": {}}, [1] * 300, [None], ["a"], deep, doubled,
        {str(number): number for number in range(50)},
    )  # fmt: skip
