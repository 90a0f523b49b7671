"""Settings survive being written and read; journals survive being cut."""

from __future__ import annotations

import tomllib
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import UsageError
from node.journal import Journal, read_new
from node.settings import Home, Limits, Settings, find_home, to_toml

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=30)
settings = st.builds(
    Settings,
    name=text,
    swarm=text,
    operator=text,
    listen=st.lists(text, max_size=3).map(tuple),
    bootstrap=st.lists(text, max_size=3).map(tuple),
    roles=st.lists(text, max_size=3).map(tuple),
    limits=st.builds(Limits, st.integers(0, 19), st.integers(0, 19)),
)


@given(settings)
def test_settings_survive_toml(tmp_path_factory, value):
    home = Home(tmp_path_factory.mktemp("home"))
    home.save(value)
    assert home.load() == value


@given(text)
def test_any_text_is_written_as_valid_toml(value):
    assert tomllib.loads(to_toml({"key": value}))["key"] == value


def test_wrong_types_are_refused(tmp_path):
    home = Home(tmp_path)
    home.settings.write_text('name = 3\nswarm = "00"\noperator = "x"\n')
    with pytest.raises(UsageError, match="name"):
        home.load()


def test_defaults_are_complete():
    assert asdict(Settings("a", "b", "c"))["proposer"] == "tpe"


def test_the_flag_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LAZARETTO_HOME", str(tmp_path / "from-environment"))
    assert find_home(None).path == tmp_path / "from-environment"
    assert find_home(tmp_path / "flag").path == tmp_path / "flag"
    monkeypatch.delenv("LAZARETTO_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert find_home(None).path == tmp_path / "lazaretto"


def test_a_journal_cut_by_a_crash_goes_on_in_a_new_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).write("first", number=1)
    with open(path, "a") as file:
        file.write('{"t": 1, "what": "cut')
    Journal(path).write("second", text="ä\n")
    entries, offset = read_new(path, 0)
    assert [entry["what"] for entry in entries] == ["first", "second"]
    assert offset == path.stat().st_size
    assert read_new(path, offset) == ([], offset)


def test_a_journal_on_a_full_disk_drops_lines_and_counts_them(tmp_path):
    journal = Journal(tmp_path / "missing" / "journal.jsonl")
    journal.write("lost")
    assert journal.lost == 1
