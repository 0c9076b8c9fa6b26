import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.units import format_bytes, format_duration, parse_bytes, parse_quantity


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (4096, 4096),
        (2.0e3, 2000),
        ("4096", 4096),
        ("1_000", 1000),
        ("4 GiB", 4 * 2**30),
        ("4GiB", 4 * 2**30),
        ("4 Gi", 4 * 2**30),
        ("10 MB", 10_000_000),
        ("1 kB", 1000),
        ("1 KB", 1000),
        ("1.5 KiB", 1536),
        ("0.1 GB", 100_000_000),
        ("2e6", 2_000_000),
        ("2 TB", 2 * 10**12),
        ("8 Mbit", 1_000_000),
        (" 3 B ", 3),
        ("-5 MB", -5_000_000),
    ],
)
def test_sizes_are_read_in_decimal_and_binary_units(text, size_bytes):
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("1 MB/s", 1e6), ("8 Mbit/s", 1e6), ("2e6", 2e6), (1000, 1000.0), ("1 MiB/s", 2.0**20), ("100 KB/s", 1e5)],
)
def test_rates_are_read_per_second(text, bytes_per_s):
    assert parse_quantity(text, "bytes_per_s") == bytes_per_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20 ms", 0.02),
        (0.02, 0.02),
        ("3 us", 3e-6),
        ("3 µs", 3e-6),
        ("2 min", 120.0),
        ("1.5 h", 5400.0),
        ("1 d", 86400.0),
    ],
)
def test_times_are_read_in_seconds(text, seconds):
    assert parse_quantity(text, "seconds") == seconds


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("lots", "bytes", "must be a size such as 4096, '10 MB' or '4 GiB', got 'lots'"),
        ("", "bytes", "must be a size such as 4096, '10 MB' or '4 GiB', got ''"),
        (True, "bytes", "must be a size such as 4096, '10 MB' or '4 GiB', got true"),
        (None, "seconds", "must be a time such as 0.02, '20 ms' or '1 h', got null"),
        ([1], "bytes_per_s", "must be a rate such as 2e6, '1 MB/s' or '8 Mbit/s', got [1]"),
        ("4 Mb", "bytes", "unknown unit 'Mb' in '4 Mb'; use B or bit with k, M, G, T, Ki, Mi, Gi or Ti before it"),
        ("4 MB/s", "bytes", "'4 MB/s' is a rate; a size has no '/s'"),
        ("4 MB", "bytes_per_s", "'4 MB' is no rate; write '4 MB/s'"),
        ("8 Mbps", "bytes_per_s", "'8 Mbps' is no rate; write '8 Mbit/s' or '8 MB/s'"),
        ("20 MB", "seconds", "unknown unit 'MB' in '20 MB'; use ns, us, ms, s, min, h or d"),
        (math.nan, "seconds", "must be a finite number, got nan"),
        (math.inf, "bytes", "must be a finite number, got inf"),
        ("1e999", "bytes", "must be a finite number, got '1e999'"),
        ("nan", "seconds", "must be a time such as 0.02, '20 ms' or '1 h', got 'nan'"),
    ],
)
def test_what_is_no_quantity_is_refused_in_plain_words(value, kind, message):
    with pytest.raises(ValueError) as caught:
        parse_quantity(value, kind)
    assert str(caught.value) == message


def test_a_fraction_of_a_byte_is_no_size():
    with pytest.raises(ValueError, match=r"'4.5 B' is not a whole number of bytes"):
        parse_bytes("4.5 B")


@given(st.integers(min_value=0, max_value=2**60), st.sampled_from(["kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_whole_multiples_of_a_unit_are_exact(count, unit):
    factor = {"k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit[:-1]]
    if len(str(count * factor)) <= 28:  # the precision of a decimal
        assert parse_bytes(f"{count} {unit}") == count * factor


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_234_567, "1.23 MB"),
        (12_345_678, "12.3 MB"),
        (123_456_789, "123 MB"),
        (999_999, "1.00 MB"),
        (9_999_999, "10.0 MB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size_bytes, text):
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0 s"),
        (0.00042, "0.42 ms"),
        (0.02, "20 ms"),
        (0.9996, "1.0 s"),
        (3.44, "3.4 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (11340, "3 h 09 min"),
        (86390, "1 d 00 h"),
        (97200, "1 d 03 h"),
    ],
)
def test_durations_are_shown_with_their_two_largest_units(duration_s, text):
    assert format_duration(duration_s) == text


@given(st.floats(min_value=0, max_value=1e7))
def test_no_duration_reads_sixty_of_a_smaller_unit(duration_s):
    shown = format_duration(duration_s)
    assert not any(wrong in shown for wrong in ("1000 ms", "60.0 s", " 60 s", " 60 min", " 24 h"))


@pytest.mark.parametrize("duration_s", [-1.0, math.nan, math.inf])
def test_a_duration_that_is_none_cannot_be_shown(duration_s):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        format_duration(duration_s)
