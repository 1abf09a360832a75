"""The pages hold what results hold, escaped, and need nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wardround.errors import WardroundError
from wardround.evaluation import FlowStep, Reported, Results, SplitCount, TaskResult
from wardround.reports import compare_report, render_report

from .conftest import Html, between, make_model


@pytest.fixture
def render(tmp_path):
    def make(results: Results) -> Html:
        render_report(results, tmp_path / "page.html")
        return read(tmp_path / "page.html")

    return make


@pytest.fixture
def compare(tmp_path):
    def make(*runs: Results) -> Html:
        compare_report(runs, tmp_path / "page.html")
        return read(tmp_path / "page.html")

    return make


def read(path: Path) -> Html:
    page = Html(path.read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids)), "an id names one element"
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        link = attributes.get("href")
        assert link is None or (link.startswith("#") and link[1:] in page.ids), link
    return page


def test_every_number_stands_on_the_page(render, make_results):
    page = render(make_results())
    head = page.row("Model")
    assert head[1:] == ["AUROC", "AUPRC", "Cal. slope", "Paper AUROC", "Paper AUPRC"]
    assert page.row("Gradient boosting") == [
        "Gradient boosting",
        *("0.8120.701 to 0.903", "0.5500.440 to 0.660", "0.6100.400 to 0.820"),
        *("0.8191", "–"),
    ]
    assert page.row("NEWS") == ["NEWSA score.", "0.7000.650 to 0.750", "–", "–", "–", "0.5002"]
    assert page.row("Labels shuffled")[1] == "0.5030.470 to 0.530"
    assert page.text.index("Table 3") < page.text.index("Notebook"), "sources by their footnotes"
    assert "0.111" not in page.text, "a paper's number of another task"


def test_cohort_splits_and_comparisons_are_tables(render, make_results):
    page = render(make_results())
    assert page.row("Every visit") == ["Every visit", "5,000", "3,000", ""]
    assert page.row("Adults") == ["Adults", "4,321", "2,900", "679"]
    assert page.row("held out") == ["held out", "900", "1,300", "325", "25 %"]
    assert ["NEWS", "AUROC", "0.1120.050 to 0.170", "< 0.002"] in page.rows
    assert "Paired comparisons with Gradient boosting" in page.text
    threshold = next(row for row in page.rows if "Youden's index" in row)
    assert threshold[2:4] == ["0.312", "75 %70 % to 80 %"]
    assert ["age", "", "0.500"] in page.rows
    assert "share of the gain" in page.text


def test_notes_departures_configuration_and_cost_are_told(render, make_results):
    page = render(make_results())
    assert ("title", {}) in page.tags and "Triage & more · wardround" in page.text
    for said in (
        "Of the run, a note.",
        "Of the task, a note.",
        "Subjects, not visits, are split.",
        "seed: 0",
        "epochs: 12",
        "3.2 s in all, 2,346 MB at most.",
        "1,234,567",
    ):
        assert said in page.text
    assert page.row("packages") == ["packages", "numpy 2.0.1"]
    assert page.row("data: fingerprint") == ["data: fingerprint", "abc"]
    assert page.row("work/admission") == [
        *("work/admission", "2.0 h", "1,000 MB", "found from an earlier start")
    ]
    assert page.row("model/boosting") == ["model/boosting", "3.2 s", "2,346 MB", ""]


def test_the_verdict_opens_the_page(render, make_results):
    text = render(make_results()).text
    assert text.index("325 of 1,300 held-out visits") < text.index("Models on held-out visits")


def test_text_from_data_is_escaped(render, compare, make_results, make_task, tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    task = make_task(
        title=evil,
        description=evil,
        notes=[evil],
        flow=[FlowStep(step=evil, rows=1, subjects=1)],
        models=[
            model.model_copy(update={"label": model.label + evil}) for model in make_task().models
        ],
    )
    results = make_results(
        tasks=[task],
        title=evil,
        paper=evil,
        departures=[evil],
        notes=[evil],
        config={evil: evil},
        environment={evil: evil},
        data={"source": evil},
    )
    page = render(results)
    assert page.text.count(evil) >= 10
    assert "<script>alert" not in (tmp_path / "page.html").read_text()
    both = compare(results, results.model_copy(update={"preset": evil, "config": {}}))
    assert evil in both.text
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_nothing_is_loaded_from_elsewhere(render, make_results, tmp_path):
    page = render(make_results())  # `read` looks at every attribute
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "page.html").read_text(), re.DOTALL)
    assert style is not None
    assert not re.search(r"@import|url\(", style[1])
    assert any("Plotly.newPlot" in script for script in page.scripts)
    assert max(len(script) for script in page.scripts) > 1_000_000, "plotly is in the page"


@pytest.mark.parametrize(
    ("access", "subjects", "said"),
    [
        ("synthetic", 3000, "Synthetic patients"),
        ("open", 100, "100 patients of an open data set"),
        ("open", 50_000, None),
        ("credentialed", 100, None),
    ],
)
def test_data_that_prove_nothing_are_marked(render, make_results, access, subjects, said):
    data = {**make_results().data, "access": access, "subjects": subjects}
    page = render(make_results(data=data))
    warned = [w for w in ("Synthetic patients", "patients of an open data set") if w in page.text]
    assert len(warned) == (said is not None)
    assert said is None or said in page.text


def test_results_with_little_in_them(render, compare, make_task):
    nothing = TaskResult(name="n", title="N", description="d", flow=[], splits=[], models=[])
    page = render(Results(tasks=[nothing]))
    assert "No held-out rows" in page.text
    assert "unknown" in page.text
    page = render(Results(tasks=[]))
    assert "None." in page.text
    assert (
        "Held-out predictions" in compare(Results(tasks=[nothing]), Results(tasks=[nothing])).text
    )


def test_one_class_and_missing_values_are_dashes(render, make_results, make_task):
    task = make_task(
        models=[
            make_model("boosting", "Gradient boosting", between(None)),
            make_model("news", "NEWS", between(0.7)),
        ],
        splits=[SplitCount(split="held_out", subjects=5, rows=0, positives=0)],
        comparisons=[],
        controls=[make_model("shuffled_labels", "Labels shuffled", between(None))],
    )
    page = render(make_results(tasks=[task], reported=[]))
    assert page.row("Gradient boosting") == ["Gradient boosting", "–"]
    assert page.row("NEWS") == ["NEWS", "0.700"]
    assert page.row("held out")[-1] == "–"
    assert "Curves" not in page.text and "Subgroups" not in page.text


def test_a_comparison_sets_models_side_by_side(compare, make_results, make_task):
    alone = make_model("other", "Only in B", between(0.66, 0.6, 0.7))
    task = make_task()
    other = make_results(tasks=[make_task(models=[task.models[1], alone])])
    page = compare(make_results(), other)
    assert page.row("Gradient boosting")[1:3] == ["0.8120.701 to 0.903", "–"]
    assert page.row("NEWS")[1:3] == ["0.7000.650 to 0.750"] * 2
    assert page.row("Only in B")[1:3] == ["–", "0.6600.600 to 0.700"]
    assert page.row("Labels shuffled")[1] == "0.5030.470 to 0.530"
    assert page.row("Held-out visits")[1:3] == ["1,300 (325)"] * 2
    assert "different data" not in page.text and "Where they differ" not in page.text


def test_a_comparison_marks_other_data_and_settings(compare, make_results):
    first = make_results()
    second = make_results(
        data={**first.data, "fingerprint": "def", "access": "synthetic", "path": "/elsewhere"},
        config={**first.config, "seed": 1, "mlp": {"epochs": 20}, "new": True},
        environment={"wardround": "0.2.0"},
    )
    page = compare(first, second)
    assert "The runs saw different data" in page.text
    assert "Some of the patients are synthetic" in page.text
    assert page.row("config.seed") == ["config.seed", "0", "1"]
    assert page.row("config.mlp.epochs") == ["config.mlp.epochs", "12", "20"]
    assert page.row("config.new") == ["config.new", "", "true"]
    assert page.row("wardround") == ["wardround", "0.1.0", "0.2.0"]
    assert page.row("data.fingerprint") == ["data.fingerprint", "abc", "def"]
    assert not any(row[0] in ("config.models", "data.path") for row in page.rows if row)


def test_a_comparison_marks_other_rows_of_the_same_data(compare, make_results, make_task):
    first = make_results()
    assert "held out different rows" not in compare(first, first).text
    task = first.tasks[0]
    split = task.splits[-1].model_copy(update={"rows": task.splits[-1].rows + 1})
    other = task.model_copy(update={"splits": [*task.splits[:-1], split]})
    second = first.model_copy(update={"tasks": [other, *first.tasks[1:]]})
    assert "The runs held out different rows" in compare(first, second).text


def test_the_papers_sensitivity_stands_beside_ours(render, make_results):
    results = make_results()
    task = results.tasks[0]
    model = next(m for m in task.models if m.operating_points)
    paper = Reported(
        task=task.name, model=model.name, metric="sensitivity", value=0.757, source="Table 9"
    )
    page = render(results.model_copy(update={"reported": [*results.reported, paper]}))
    assert "paper 76 %" in page.text and "paper 76 %" not in render(results).text


def test_departures_that_paper_compat_undoes_are_told_apart(render, make_results):
    text = render(make_results(undone=["Deaths count by the record."])).text
    assert text.index("Undone by") < text.index("Deaths count by the record.")
    assert "Undone by" not in render(make_results()).text


def test_a_comparison_takes_runs_with_a_common_task(compare, make_results, make_task):
    with pytest.raises(WardroundError, match="two runs or more"):
        compare(make_results())
    other = make_results(tasks=[make_task(name="death")])
    with pytest.raises(WardroundError, match="A has admission; B has death"):
        compare(make_results(), other)
    both = make_results(tasks=[make_task(name="death"), make_task()])
    assert compare(make_results(), both).ids.count("admission") == 1
    assert "death" not in compare(make_results(), both).ids


def test_many_runs_have_names(compare, make_results):
    page = compare(*[make_results()] * 27)
    assert page.rows[26][0] == "Z" and page.rows[27][0] == "A1"
