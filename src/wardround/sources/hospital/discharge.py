"""Discharge summaries: one encounter's state in the sections of MIMIC-IV-Note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from wardround.sources.hospital.cases import (
    EVIDENT,
    SILENT,
    SILENT_REASON,
    UNCODED,
    Case,
    Memory,
    Problem,
)
from wardround.sources.hospital.catalogue import Catalogue, Condition
from wardround.sources.hospital.page import Fill, Page
from wardround.sources.hospital.wording import (
    Draw,
    Manner,
    Sentence,
    misspell,
    name_code,
    phrases,
    pick,
    terms_of,
)

#: How often a later note copies a section, and the course of the stay before, from an earlier one.
COPIED, RETOLD = 0.6, 0.35
#: How often a slip of the pen is in a plain sentence of the course.
SLIPS = 0.06
HEADS = ("ACTIVE ISSUES:", "ACUTE ISSUES:", "ACUTE/ACTIVE PROBLEMS:", "ACUTE/ACTIVE ISSUES:")
LATER = ("CHRONIC ISSUES:", "CHRONIC/STABLE PROBLEMS:", "CHRONIC ISSUES", "CHRONIC:")
PLAIN = Manner(lay=("your illness",))


@dataclass(frozen=True)
class Plan:
    """Where a note names what: lists of problems by section.

    Attributes:
        course: active and chronic ones, discussed one by one.
        uncoded: those that no coder listed.
    """

    history: list[Problem]
    opening: list[Problem]
    active: list[Problem]
    chronic: list[Problem]
    primary: list[Problem]
    secondary: list[Problem]
    evident: list[Problem]
    operations: list[Problem]
    lay: Problem | None


def manner(condition: Condition | None) -> Manner:
    """How a condition is written about; the general way for one without phrases of its own."""
    return phrases().conditions.get(condition.name, PLAIN) if condition is not None else PLAIN


def drugs_for(case: Case, condition: Condition) -> list[str]:
    """Drugs of a condition that were ordered in this stay."""
    wanted = set(condition.drugs)
    return [drug for drug, _, _ in case.drugs if drug in wanted]


def settle(case: Case, r: Draw) -> list[Problem]:
    """Decide which of the coded conditions are silent or only shown; add some uncoded ones."""
    said = []
    for problem in case.problems:
        u = r()
        silent = SILENT_REASON if problem.sort == "acute" else SILENT
        if u < silent:
            case.silent.add(problem.code)
            continue
        condition = problem.condition
        if condition is not None and problem.sort == "chronic" and u < silent + EVIDENT:
            problem.evidence = bool(drugs_for(case, condition) or _shown(case, condition))
        said.append(problem)
    coded = {p.condition.name for p in case.problems if p.condition is not None}
    for condition in case.chronic:
        if condition.name not in coded and r() < UNCODED:
            code = pick(case.codes(condition), r)
            if ("diagnosis", code) not in case.coded:
                said.append(Problem("diagnosis", code, "chronic", condition))
    case.blocked |= {code for _, code in case.coded}
    for condition in [*case.chronic, case.acute]:
        case.blocked |= set(case.codes(condition))
    return said


def _shown(case: Case, condition: Condition) -> list[str]:
    return [name for name in condition.labs if name in case.results]


def _plan(said: Sequence[Problem], memory: Memory, r: Draw) -> Plan:
    plan = Plan([], [], [], [], [], [], [], [], None)
    lay = None
    for problem in said:
        if problem.evidence:
            plan.evident.append(problem)
        elif problem.sort == "procedure":
            plan.operations.append(problem)
        elif problem.sort == "acute":
            plan.active.append(problem)
            plan.primary.append(problem)
            lay = problem
        else:
            lasting = problem.sort == "chronic" or problem.code in memory.surfaces
            before = r() < (0.85 if lasting else 0.35)
            told = r() < (0.5 if lasting else 0.65)
            listed = r() < 0.4
            if before or not (told or listed):
                plan.history.append(problem)
                if lasting and r() < 0.4 and len(plan.opening) < 4:
                    plan.opening.append(problem)
            if told:
                (plan.chronic if lasting or r() < 0.3 else plan.active).append(problem)
            if listed:
                plan.secondary.append(problem)
    return Plan(plan.history, plan.opening, plan.active, plan.chronic, plan.primary,
                plan.secondary, plan.evident, plan.operations, lay)  # fmt: skip


class Writer:
    """Writes the notes of one patient, one after the other."""

    def __init__(self, catalogue: Catalogue, r: Draw) -> None:
        self.catalogue = catalogue
        self.r = r
        self.memory = Memory()
        self.book = phrases()
        self.general = self.book.general

    def name(
        self, case: Case, problem: Problem, status: str = "affirmed"
    ) -> Callable[[Page], None]:
        """A slot that names a problem."""

        def say(page: Page) -> None:
            text = name_code(problem.kind, problem.code, case.version, self.r)
            page.mention(text, problem.kind, problem.code, status)

        return say

    def _plainly(self, case: Case, code: str) -> str:
        """A diagnosis without anything before or after its term."""
        known = terms_of("diagnosis", code, case.version)
        if known is not None:
            return pick(known.terms, self.r)
        return name_code("diagnosis", code, case.version, self.r)

    def negated(
        self, case: Case, capital: bool = False, exam: str | None = None
    ) -> Callable[[Page], None]:
        """A slot that names something which the patient has not (and `exam` could show)."""
        absents = [a for a in self.book.absent if exam is None or exam in a.exams]
        absents = absents or list(self.book.absent)

        def say(page: Page) -> None:
            for _ in range(20):
                if exam is not None or self.r() < 0.75:
                    absent = pick(absents, self.r)
                    code, text = absent.code[case.version], pick(absent.words, self.r)
                else:
                    code = pick(case.codes(pick(self.catalogue.acute, self.r)), self.r)
                    text = ""
                if code not in case.blocked:
                    break
            else:
                page.say("new complaints")
                return
            text = text or self._plainly(case, code)
            text = text[0].upper() + text[1:] if capital else text
            page.mention(text, "diagnosis", code, "negated")

        return say

    def fill(self, case: Case) -> dict[str, str | Callable[[Page], None]]:
        """The slots that hold throughout a note."""
        fill: dict[str, str | Callable[[Page], None]] = {
            "sex": pick(("woman", "female", "F") if case.female else ("man", "male", "M"), self.r),
            "pt": pick(("the patient", "pt", "patient"), self.r),
            "cc": case.complaint.lower() if case.complaint != "___" else "___",
            "neg": self.negated(case),
            "Neg": self.negated(case, capital=True),
        }
        if case.vitals:
            fill["vitals"] = case.vitals
        if case.abnormal:
            fill["labs"] = case.abnormal
        return fill | case.results

    def about(self, case: Case, problem: Problem, fill: Fill) -> Fill:
        """The same, and what belongs to one problem."""
        own: dict[str, str | Callable[[Page], None]] = {**fill, "dx": self.name(case, problem)}
        if problem.condition is not None:
            drugs = drugs_for(case, problem.condition)
            if drugs:
                own["drug"] = pick(drugs, self.r).lower()
        return own

    def discharge(self, case: Case, said: Sequence[Problem]) -> Page:
        """The summary of an admission; what it says is remembered for the next one.

        Args:
            case: the admission.
            said: what `settle` left to be named or shown.
        """
        r, page, general, memory = self.r, Page(self.r, case.female), self.general, self.memory
        plan = _plan(said, memory, r)
        fill = self.fill(case)
        sex = "F" if case.female else "M"
        page.say(
            " \nName:  ___                     Unit No:   ___\n \n"
            "Admission Date:  ___              Discharge Date:   ___\n \n"
            f"Date of Birth:  ___             Sex:   {sex}\n \n"
            f"Service: {case.service}\n \nAllergies: \n"
        )
        page.one_of(general["allergy"], fill)
        page.say("\n \nAttending: ___.\n \nChief Complaint:\n")
        self._complaint(page, case, plan)
        page.say("\n \nMajor Surgical or Invasive Procedure:\n")
        self._operations(page, case, plan)
        page.say(" \nHistory of Present Illness:\n")
        self._illness(page, case, plan, fill)
        page.say("\n \nPast Medical History:\n")
        self._past(page, case, plan, fill)
        page.say(" \nSocial History:\n")
        self._block(page, "social", lambda: page.one_of(general["social"], fill))
        page.say("\n \nFamily History:\n")
        self._family(page, case)
        page.say("\n \nPhysical Exam:\n")
        self._exam(page, case, fill)
        page.say(" \nPertinent Results:\n")
        self._results(page, case)
        page.say(" \nBrief Hospital Course:\n")
        self._course(page, case, plan, fill)
        page.say(" \nMedications on Admission:\n")
        self._medicines(page, case)
        page.say("Discharge Disposition:\n")
        page.say(_disposition(case))
        page.say(" \nDischarge Diagnosis:\n")
        self._diagnoses(page, case, plan)
        page.say(" \nDischarge Condition:\n")
        if case.died:
            page.say("Expired.\n")
        else:
            ways = general["condition"]
            worse = sum(r() < 0.3 for _ in range(len(ways) - 1))
            page.write(ways[worse], fill)
            page.say("\n")
        page.say(" \nDischarge Instructions:\n")
        self._instructions(page, case, plan, fill)
        page.say(" \nFollowup Instructions:\n___\n")
        memory.past[case.acute.name] = case.acute
        return page

    def _complaint(self, page: Page, case: Case, plan: Plan) -> None:
        terms = {t.lower() for p in plan.primary if (k := self.book.codes.get(p.code))
                 for t in k.terms}  # fmt: skip
        if case.complaint.lower() in terms:
            page.mention(case.complaint, "diagnosis", plan.primary[0].code)
        else:
            page.say(case.complaint)

    def _operations(self, page: Page, case: Case, plan: Plan) -> None:
        if not plan.operations:
            page.say(pick(("None", "None.", "none", "___"), self.r) + "\n")
        for problem in plan.operations:
            page.say(pick(("", "", "- ", "___ - "), self.r))
            self.name(case, problem)(page)
            page.say("\n")

    def _illness(self, page: Page, case: Case, plan: Plan, fill: Fill) -> None:
        r, general = self.r, self.general
        rounds = case.verbosity
        own = dict(fill)
        if plan.opening:

            def listed(page: Page) -> None:
                for number, problem in enumerate(plan.opening):
                    page.say("" if number == 0 else ", " if r() < 0.8 else " and ")
                    self.name(case, problem)(page)

            own["pmh"] = listed
            page.one_of(general["opening"], own, " ")
        else:
            page.one_of(general["opening_plain"], own, " ")
        story = manner(case.acute).story
        page.some_of(story, self._drugged(case, fill), 2 if r() < 0.8 else 1, " ")
        self._sloppy(page, general["story"], fill, _count(3.2 * rounds, r))
        if self.memory.course is not None and r() < RETOLD:
            before, passage = self.memory.course
            if not case.blocked.intersection(m.code for m in passage.mentions):
                page.say("\nPer prior discharge summary: ")
                page.paste(passage, "historical")
                case.blocked |= set(case.codes(before))
        elif self.memory.past and r() < 0.35:
            self._earlier(page, case, fill)
        page.say("\n\n")
        if case.vitals:
            page.one_of(general["ed"], fill, " ")
            page.some_of(
                general["ed_more"], self._drugged(case, fill), _count(2.2 * rounds, r), " "
            )
            page.say("\n\n")
            page.one_of(general["floor"], fill, " ")
        if r() < min(0.9, 0.6 * rounds + 0.1):
            page.one_of(general["ros"], fill)
        for problem in plan.evident:
            if r() < 0.5:
                page.say(" ")
                self._evidence(page, case, problem, fill)

    def _drugged(self, case: Case, fill: Fill) -> Fill:
        drugs = drugs_for(case, case.acute)
        return {**fill, "drug": pick(drugs, self.r).lower()} if drugs else fill

    def _evidence(self, page: Page, case: Case, problem: Problem, fill: Fill) -> None:
        """A condition that is not named: its drug, or its result."""
        assert problem.condition is not None
        drugs, labs = drugs_for(case, problem.condition), _shown(case, problem.condition)
        own = dict(fill)
        if drugs and (not labs or self.r() < 0.6):
            own["drug"] = pick(drugs, self.r)
            ways = self.general["evidence_drug"]
        else:
            name = pick(labs, self.r)
            own |= {"lab": name, "value": case.results[name]}
            ways = self.general["evidence_lab"]
        start, before = page.length, len(page.mentions)
        page.one_of(ways, own)
        page.mention("", problem.kind, problem.code)
        whole = page.mentions[-1]._replace(start=start, evidence=True)
        page.mentions[before:] = [whole]
        problem.evidence = True

    def _earlier(self, page: Page, case: Case, fill: Fill) -> None:
        for _ in range(4):
            condition = pick(list(self.memory.past.values()), self.r)
            code = pick(case.codes(condition), self.r)
            if code not in case.blocked:
                problem = Problem("diagnosis", code, "past", condition)
                own = {**fill, "dx": self.name(case, problem, "historical")}
                page.one_of(self.general["earlier"], own, " ")
                return

    def _past(self, page: Page, case: Case, plan: Plan, fill: Fill) -> None:
        r, memory = self.r, self.memory
        bullet = pick(("- ", "", "* ", "#. "), r)
        lines: list[Callable[[], None]] = [
            partial(self._listed, page, case, problem) for problem in plan.history
        ]
        for condition in memory.past.values():
            code = pick(case.codes(condition), r)
            if code not in case.blocked and r() < 0.55:
                problem = Problem("diagnosis", code, "past", condition)
                lines.append(partial(self._history, page, case, problem, fill))
        if memory.surgeries is None:
            planned = [a for a in self.catalogue.acute if a.elective and a.procedures9]
            memory.surgeries = [pick(planned, r) for _ in range(int(2.3 * r()))] if planned else []
        for condition in memory.surgeries:
            listed = case.operations(condition)
            if listed and not case.coded.intersection(("procedure", code) for code in listed):
                problem = Problem("procedure", listed[0], "past", condition)
                if r() < 0.8:
                    lines.append(partial(self._history, page, case, problem, fill))
        if not lines:
            page.say(pick(("None\n", "None known.\n", "___\n", "Denies.\n"), r))
        for number, line in enumerate(lines, 1):
            page.say(f"{number}. " if bullet == "#. " else bullet)
            line()
            page.say("\n")

    def _listed(self, page: Page, case: Case, problem: Problem) -> None:
        surface = self.memory.surfaces.get(problem.code)
        if surface is None or self.r() >= COPIED:
            surface = name_code(problem.kind, problem.code, case.version, self.r)
            self.memory.surfaces[problem.code] = surface
        page.mention(surface, problem.kind, problem.code)

    def _history(self, page: Page, case: Case, problem: Problem, fill: Fill) -> None:
        ways = self.general["surgical" if problem.kind == "procedure" else "historical"]
        page.one_of(ways, {**fill, "dx": self.name(case, problem, "historical")})

    def _block(self, page: Page, name: str, write: Callable[[], object]) -> None:
        """A section that later notes may copy whole."""
        blocks = self.memory.blocks
        if name in blocks and self.r() < COPIED:
            page.paste(blocks[name])
            return
        mark = page.mark()
        write()
        blocks[name] = page.since(mark)

    def _family(self, page: Page, case: Case) -> None:
        memory, r = self.memory, self.r
        if memory.family is None:
            ill = [pick(self.catalogue.chronic, r) for _ in range(int(3.5 * r()))]
            memory.family = [c for number, c in enumerate(ill) if c not in ill[:number]]
        codes = [case.codes(c)[0] for c in memory.family]
        codes = [code for code in codes if code not in case.blocked]
        name = f"family {case.version}"
        if name in memory.blocks and r() < COPIED:
            passage = memory.blocks[name]
            if not case.blocked.intersection(m.code for m in passage.mentions):
                page.paste(passage)
                return
        mark = page.mark()
        if codes:
            for number, code in enumerate(codes):
                page.say("" if number == 0 else pick(("; ", ", ", "\n", ". "), r))

                def short(page: Page, code: str = code) -> None:
                    page.mention(self._plainly(case, code), "diagnosis", code, "family")

                page.one_of(self.general["family"], {"dx": short})
        else:
            page.one_of(self.general["family_none"], {})
        memory.blocks[name] = page.since(mark)

    def _exam(self, page: Page, case: Case, fill: Fill) -> None:
        r = self.r
        signs: dict[str, str] = {}
        for condition in [*case.chronic, case.acute]:
            signs |= dict(manner(condition).signs)
        head = pick(("ADMISSION PHYSICAL EXAM:", "ADMISSION EXAM", "On admission:"), r)
        page.say(f"{head}\nVS: {case.exam[0]}\n")
        for system, ways in self.book.exam_systems.items():
            if system in signs:
                page.say(f"{system}: {signs[system]}\n")
            elif r() < min(0.95, 0.15 + 0.7 * case.verbosity):
                page.say(f"{system}: ")
                page.one_of(ways, fill, "\n")
        if not case.died and r() < min(0.95, 0.1 + 0.6 * case.verbosity):
            head = pick(("DISCHARGE PHYSICAL EXAM:", "DISCHARGE EXAM", "On discharge:"), r)
            page.say(f"\n{head}\nVS: {case.exam[1]}\n")
            if r() < 0.5:
                page.one_of(self.general["discharge_exam"], fill, "\n")
            else:
                for system, ways in self.book.exam_systems.items():
                    if r() < 0.75:
                        page.say(f"{system}: ")
                        page.one_of(ways, fill, "\n")

    def _results(self, page: Page, case: Case) -> None:
        r, lines = self.r, case.draws
        if not lines:
            page.say("___\n")
        shown = max(2, _count(4.5 * case.verbosity, r))
        if lines:
            page.say(pick(("ADMISSION LABS:\n", "LABS ON ADMISSION\n", "Admission labs:\n"), r))
            page.say("\n".join(lines[: max(1, shown // 2)]) + "\n")
        rest = lines[max(1, shown // 2) :][-max(1, shown // 2) :]
        if rest:
            page.say(
                pick(("\nDISCHARGE LABS:\n", "\nLABS ON DISCHARGE\n", "\nInterval labs:\n"), r)
            )
            page.say("\n".join(rest) + "\n")
        if case.cultures:
            page.say("\nMICROBIOLOGY:\n" + "\n".join(case.cultures) + "\n")
        for film in case.films:
            if r() < 0.7 and not case.silent.intersection(m.code for m in film.mentions):
                page.say("\n")
                page.paste(film)
                page.say("\n")

    def _course(self, page: Page, case: Case, plan: Plan, fill: Fill) -> None:
        r, general, rounds = self.r, self.general, case.verbosity
        if r() < 0.5:
            page.one_of(general["opening_plain"], fill, "\n\n")
        else:
            page.say("\n")
        page.say(pick(HEADS, r) + "\n")
        for number, problem in enumerate(plan.active):
            mark = page.mark()
            self._problem(page, case, problem, fill)
            if number == 0 and problem.sort == "acute" and problem.condition is not None:
                # As a later note will tell it; the heading stays behind.
                self.memory.course = (problem.condition, page.since(mark))
            if r() < min(0.8, 0.45 * rounds):
                page.one_of(general["negated"], fill, " ")
            page.say("\n")
        for problem in plan.operations:
            if r() < 0.6:
                page.one_of(general["procedure"], {**fill, "dx": self.name(case, problem)}, " ")
        if case.icu and not case.died:
            page.one_of(general["icu"], fill, " ")
        self._sloppy(page, general["course_more"], fill, _count(4.5 * rounds, r))
        page.say("\n\n")
        blocks = [*general["blocks"][:7], *general["blocks"][10:]]
        page.some_of(blocks, fill, _count(3.2 * rounds, r), "\n\n")
        if rounds > 1.3:  # the long ones tell day by day
            for _ in range(_count(7 * (rounds - 1.2), r)):
                page.one_of(general["daily"], fill, "\n")
            page.say("\n")
        if plan.chronic or plan.evident:
            page.say(pick(LATER, r) + "\n")
            for problem in plan.chronic:
                self._problem(page, case, problem, fill)
                page.say("\n")
            for problem in plan.evident:
                self._evidence(page, case, problem, fill)
                page.say("\n")
        if case.died:
            page.one_of(general["death"], fill, "\n")
            return
        if r() < min(0.9, 0.6 * rounds):
            page.say("\nTRANSITIONAL ISSUES:\n")
            page.some_of(general["transitional"], fill, _count(3 * rounds, r), "\n")
        page.some_of(general["housekeeping"], fill, _count(2.5 * rounds, r), "\n")

    def _problem(self, page: Page, case: Case, problem: Problem, fill: Fill) -> None:
        r, general = self.r, self.general
        own = self.about(case, problem, fill)
        page.one_of(general["problem"], own, "\n" if r() < 0.4 else " ")
        texts = manner(problem.condition).course
        room = case.verbosity * (1.6 if problem.sort == "acute" else 0.9)
        if problem.sort == "acute":
            page.one_of(general["active"], own, " ")
        if texts:
            page.some_of(texts, own, max(1, _count(1.7 * room, r)), " ")
        if problem.sort == "rare" or not texts:
            ways = general["rare" if problem.sort == "rare" else "chronic"]
            self._sloppy(page, ways, own, max(1, _count(1.2 * room, r)))
        elif problem.sort == "chronic" and r() < 0.5 * room:
            self._sloppy(page, general["chronic"], own, 1)
        page.say("\n")

    def _sloppy(self, page: Page, ways: Sequence[Sentence], fill: Fill, count: int) -> None:
        """Sentences without mentions, some misspelt."""
        inner = Page(self.r, page.female)
        inner.some_of(ways, fill, count, " ")
        text = inner.text
        page.say(misspell(text, self.r) if self.r() < SLIPS * count else text)

    def _medicines(self, page: Page, case: Case) -> None:
        r = self.r
        lasting = {drug for condition in case.chronic for drug in condition.drugs}
        home = [line for drug, line, _ in case.drugs if drug in lasting]
        more = [line for drug, line, oral in case.drugs if drug not in lasting and oral]
        page.say(
            pick(
                (
                    "The Preadmission Medication list is accurate and complete.\n",
                    "The Preadmission Medication list may be inaccurate and requires further "
                    "investigation.\n",
                    "",
                ),
                r,
            )
        )
        before = home + [line for line in more if r() < 0.3]
        page.say("".join(f"{n}. {line} \n" for n, line in enumerate(before, 1)) or "None\n")
        page.say(" \nDischarge Medications:\n")
        if case.died:
            page.say("Not applicable.\n \n")
            return
        after = [line for line in home if r() < 0.93] + [line for line in more if r() < 0.7]
        tails = (" \n", "  \n", "\nRx *___ ___ tablet(s) by mouth as directed Refills:*0 \n", "\n")
        page.say(
            "".join(
                f"{n}. {line}{tails[2] if r() < 0.12 * case.verbosity else pick(tails[:2], r)}"
                for n, line in enumerate(after, 1)
            )
            or "None\n"
        )
        page.say(" \n")

    def _diagnoses(self, page: Page, case: Case, plan: Plan) -> None:
        r = self.r
        style = pick((("Primary:\n", "Secondary:\n"), ("PRIMARY DIAGNOSIS:\n",
                       "\nSECONDARY DIAGNOSES:\n"), ("", "")), r)  # fmt: skip
        page.say(style[0] if plan.primary else "")
        for problem in plan.primary:
            self.name(case, problem)(page)
            page.say("\n")
        if plan.secondary:
            page.say(style[1])
            for problem in plan.secondary:
                self.name(case, problem)(page)
                page.say("\n" if r() < 0.8 else ", ")
            page.say("\n")
        if not plan.primary and not plan.secondary:
            page.say("___\n")

    def _instructions(self, page: Page, case: Case, plan: Plan, fill: Fill) -> None:
        if case.died:
            page.say("Not applicable.\n")
            return
        r = self.r
        lays = manner(case.acute).lay

        def lay(page: Page) -> None:
            if plan.lay is None or not lays:
                page.say("your symptoms")
            else:
                page.mention(pick(lays, r), "diagnosis", plan.lay.code)

        page.say(f"Dear {'Ms.' if case.female else 'Mr.'} ___,\n")
        own = {**fill, "lay": lay}
        inner = self.general["instructions"]
        for way in inner[:3]:
            if r() < 0.85:
                page.write(way, own)
                page.say(" ")
        page.some_of(inner[3:], own, _count(3.5 * case.verbosity, r), " ")
        if r() < 0.4 * case.verbosity:
            page.say("\n\n")
            page.some_of(
                self.general["blocks"][7:10], fill, 1 + _count(0.6 * case.verbosity, r), "\n\n"
            )
        page.say("\n\n" + pick(("Sincerely,\nYour ___ Team\n", "We wish you the best!\n", ""), r))


def _count(expected: float, r: Draw) -> int:
    """A whole number about `expected`."""
    return int(expected * (0.6 + 0.8 * r()) + r())


def _disposition(case: Case) -> str:
    if case.died:
        return "Expired\n"
    if case.goes == "HOME":
        return "Home\n"
    if case.goes == "HOME HEALTH CARE":
        return "Home With Service\n \nFacility:\n___\n"
    return "Extended Care\n \nFacility:\n___\n"
