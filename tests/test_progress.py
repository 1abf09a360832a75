"""Progress bars are for people: nothing is drawn into a file."""

from __future__ import annotations

import io
import sys

from wardround.progress import live, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_items_pass_through_and_a_terminal_sees_a_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    assert list(track("abc", "Reading tables")) == ["a", "b", "c"]
    assert "Reading tables" in screen.getvalue() and "3/3" in screen.getvalue()


def test_a_generator_tells_its_length(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert list(track((x for x in range(4)), "Shards", total=4)) == [0, 1, 2, 3]
    assert "4/4" in sys.stderr.getvalue()


def test_a_file_sees_nothing(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    assert list(track(range(3), "Shards")) == [0, 1, 2]
    assert file.getvalue() == ""


def test_a_live_bar_shows_figures(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with live("Pretraining", total=5, done=3) as advance:
        advance("loss 2.345")
        advance("loss 1.234")
    assert "5/5" in screen.getvalue() and "loss 1.234" in screen.getvalue()
    monkeypatch.setattr(sys, "stderr", hidden := Terminal())
    with live("Pretraining", total=5, shown=False) as advance:
        advance("loss 2.345")
    assert hidden.getvalue() == ""
