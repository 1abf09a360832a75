"""Radiology reports: what a film of an encounter shows, and what it does not."""

from __future__ import annotations

from wardround.sources.hospital.cases import Case, Problem
from wardround.sources.hospital.discharge import Writer, manner
from wardround.sources.hospital.page import Page, Passage
from wardround.sources.hospital.wording import Exam, pick

#: Where a finding of the catalogue's `film` field is seen; elsewhere than on the chest.
SEEN_ON = {"knee_prosthesis": "knee", "hip_prosthesis": "hip"}
COMPARED = ("None.", "Chest radiograph ___.", "CT from ___.", "Prior study of ___.", "___.")


def report(writer: Writer, case: Case, kind: str, exam: Exam) -> tuple[Page, Passage, str]:
    """One report: its page, its impression (for the discharge summary), its exam's name."""
    r, page, fill = writer.r, Page(writer.r, case.female), writer.fill(case)
    fill["neg"] = writer.negated(case, exam=kind)
    name = pick(exam.names, r)
    problem = next((p for p in case.problems if p.sort == "acute"), None)
    if problem is None:
        problem = Problem("diagnosis", pick(case.codes(case.acute), r), "acute", case.acute)
    page.say(f"EXAMINATION:  {name}\n\nINDICATION:  ___ year old {fill['sex']} with ")
    known = [p for p in case.problems if p.sort == "chronic" and p.code not in case.silent
             and not p.evidence]  # fmt: skip
    if known and r() < 0.4:
        writer.name(case, pick(known, r))(page)
        page.say(", ")
    page.say(f"{fill['cc']}  // evaluate for acute process\n\nTECHNIQUE:  ")
    page.say(f"{pick(exam.technique, r)}\n\nCOMPARISON:  {pick(COMPARED, r)}\n\nFINDINGS:\n\n")
    page.some_of(exam.normal, fill, 2 + int(2 * r()), " ")
    films = {f for condition in [*case.chronic, case.acute] for f in condition.film}
    for film in sorted(films):
        if SEEN_ON.get(film, "chest") == kind and r() < 0.8:
            page.one_of(writer.book.films.get(film, ()), fill, " ")
    page.one_of(exam.look, fill, " ")
    if r() < 0.5:
        page.one_of(exam.look, fill, " ")
    page.say("\n\nIMPRESSION:\n\n")
    mark = page.mark()
    reads = dict(manner(case.acute).reads).get(kind)
    if reads and problem.code not in case.silent and r() < 0.8:
        page.one_of(reads, {**fill, "dx": writer.name(case, problem)})
        if r() < 0.5:
            page.say(" ")
            page.one_of(exam.look, fill)
    else:
        page.say(pick(exam.none, r))
        if r() < 0.4:
            page.say(" ")
            page.one_of(exam.look, fill)
    told = page.since(mark)
    page.say("\n")
    before = f"{name} ___: "
    moved = tuple(
        m._replace(start=m.start + len(before), stop=m.stop + len(before)) for m in told.mentions
    )
    return page, Passage(before + told.text, moved), name
