"""A note while it is being written: its text, and where in it which code is mentioned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from wardround.ontology import CodeKind
from wardround.sources.hospital.wording import Choice, Draw, Part, Sentence, pick

#: Tries at finding a sentence for which everything is known.
TRIES = 6


class Mention(NamedTuple):
    """A code's place in a text: characters `start` to `stop`.

    `status`: affirmed, negated, historical or family. `evidence`: the words show the condition by
    a drug or a result without naming it.
    """

    start: int
    stop: int
    kind: CodeKind
    code: str
    status: str
    evidence: bool = False


class Passage(NamedTuple):
    """A piece of a note that may be copied into a later one; mentions count from its beginning."""

    text: str
    mentions: tuple[Mention, ...]


Fill = Mapping[str, "str | Callable[[Page], None]"]


class Page:
    """A text that grows at its end."""

    def __init__(self, r: Draw, female: bool) -> None:
        self.r = r
        self.female = female
        self.mentions: list[Mention] = []
        self._parts: list[str] = []
        self._counted = self._length = 0
        #: Adds plain text.
        self.say: Callable[[str], None] = self._parts.append

    @property
    def length(self) -> int:
        """Characters so far; counted when asked for, since most text holds no mention."""
        self._length += sum(map(len, self._parts[self._counted :]))
        self._counted = len(self._parts)
        return self._length

    def mention(self, text: str, kind: CodeKind, code: str, status: str = "affirmed") -> None:
        """Add text that names a code."""
        start = self.length
        self.say(text)
        self.mentions.append(Mention(start, start + len(text), kind, code, status))

    def write(self, sentence: Sentence, fill: Fill) -> None:
        """Add a sentence, its slots filled and its wordings chosen."""
        ways = sentence.ways[self.female]
        self._write(ways[int(self.r() * len(ways))], fill)

    def _write(self, parts: Iterable[Part], fill: Fill) -> None:
        for part in parts:
            if isinstance(part, str):
                self.say(part)
            elif isinstance(part, Choice):
                self._write(pick(part.ways, self.r), fill)
            else:
                content = fill[part.name]
                if isinstance(content, str):
                    self.say(content)
                else:
                    content(self)

    def one_of(self, sentences: Sequence[Sentence], fill: Fill, end: str = "") -> bool:
        """Add one of the sentences for which all is known, if any is found."""
        for _ in range(min(TRIES, 3 * len(sentences))):
            sentence = sentences[int(self.r() * len(sentences))]
            if not sentence.needs or sentence.needs <= fill.keys():
                self.write(sentence, fill)
                if end:
                    self.say(end)
                return True
        return False

    def some_of(self, sentences: Sequence[Sentence], fill: Fill, count: int, end: str) -> None:
        """Add `count` different ones of the sentences (as far as there are) in a random order."""
        left = [s for s in sentences if not s.needs or s.needs <= fill.keys()]
        for _ in range(min(count, len(left))):
            self.write(left.pop(int(self.r() * len(left))), fill)
            if end:
                self.say(end)

    def since(self, mark: tuple[int, int, int]) -> Passage:
        """What was written since `mark`."""
        parts, mentions, start = mark
        moved = (m._replace(start=m.start - start, stop=m.stop - start)
                 for m in self.mentions[mentions:])  # fmt: skip
        return Passage("".join(self._parts[parts:]), tuple(moved))

    def mark(self) -> tuple[int, int, int]:
        """Where the text ends now."""
        return len(self._parts), len(self.mentions), self.length

    def paste(self, passage: Passage, status: str | None = None) -> None:
        """Copy a passage; `status`, if given, becomes that of its mentions."""
        start = self.length
        self.say(passage.text)
        self.mentions += [
            m._replace(start=m.start + start, stop=m.stop + start, status=status or m.status)
            for m in passage.mentions
        ]

    @property
    def text(self) -> str:
        """The whole."""
        return "".join(self._parts)
