"""Settings as text: what version of YAML it is, and what stands twice."""

import pytest

from ppl_vae.settings_file import parse_settings, write_yaml_text

VALUES = {
    "text": ["1:30", "yes", "on", "010", "1e-3", "null", "~", "", "a: b", "2020-01-01", "ü"],
    "numbers": [1, 1e-3, -2.5, 1e-10, float("inf")],
    "nested": {"y": [{"a": None}, {}], "z": [], "b": True},
}


def test_what_is_written_is_read_back():
    assert parse_settings(write_yaml_text(VALUES)) == VALUES
    assert list(parse_settings(write_yaml_text(VALUES))) == list(VALUES)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1:30", "1:30"), ("yes", "yes"), ("off", "off"), ("010", 10), ("1e-3", 1e-3), ("true", True)],
)
def test_yaml_is_of_version_1_2(text, value):
    assert parse_settings(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", ".yaml", "'c' stands twice, again in line 4: keep one"),
        ('{"a": {"b": 1, "b": 1}}', ".json", "'b' stands twice: keep one"),
        ("a = 1\na = 2", ".toml", "no readable TOML"),
        ("a: !!python/object:os.system x", ".yaml", "no readable YAML: could not determine"),
        ("\x00", ".yaml", "no readable YAML"),
        ("{", ".json", "no readable JSON"),
    ],
)
def test_what_is_wrong_is_one_line(text, suffix, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_settings(text, suffix)
    assert "\n" not in str(error.value)
