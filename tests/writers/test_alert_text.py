import html

import pytest
from tests.writers.reading import markdown_to_safe_html
from tests.writers.stand_ins import alert

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.writers.alert_text import AlertStory


def told(*alerts: Alert) -> str:
    story = AlertStory()
    story.add(alerts)
    return story.tell()


def test_an_alert_is_a_few_paragraphs_with_all_that_it_says():
    shown = html.unescape(markdown_to_safe_html(told(alert())))
    for text in (
        "<h4>critical: dead_units at step 300</h4>",
        "<p>60 of 64 units never fire</p>",
        "<strong>Where:</strong> net.2, net.4<",
        "<strong>Since:</strong> step 250<",
        "<strong>Evidence:</strong> share = 0.9375, samples = 160<",
        "<strong>Could also be:</strong> a schedule that falls<",
        "<strong>What to do:</strong> restart with lr 0.01 instead of 0.1<",
    ):
        assert text in shown


def test_what_is_not_known_is_left_out():
    shown = told(alert(layers=(), since_step=None, evidence={}, sample_size=None, could_be=()))
    assert [line[:9] for line in shown.splitlines() if line.startswith("- ")] == ["- **What "]


def test_the_newest_alert_stands_first():
    text = told(alert(step=1), alert(step=2))
    assert text.index("step 2") < text.index("step 1")


def test_a_resolved_alert_says_so_and_needs_no_remedy():
    text = told(alert(state="resolved"))
    assert "#### resolved" in text
    assert "What to do" not in text


def test_many_layers_and_many_alerts_are_counted():
    layers = tuple(f"layer{i}" for i in range(20))
    text = told(*[alert(layers=layers)] * 150)
    assert "and 12 more" in text
    assert text.count("####") == 100
    assert text.endswith("and 50 earlier ones, in alerts.jsonl")


def test_a_healthy_run_says_how_far_it_was_watched():
    story = AlertStory()
    story.note_watched([0], ())
    assert story.tell() == "No alert. Looked at step 0 so far."
    story.note_watched([5, 10, 15, 5], ())
    assert story.tell() == "No alert. Looked at 4 steps so far, from step 0 to 15."


def test_a_run_with_alerts_says_how_far_it_was_watched_and_not_that_there_is_none():
    story = AlertStory()
    story.note_watched([0], ())
    story.add([alert()])
    story.note_watched([400], ())
    assert "Looked at 2 steps" in story.tell()
    assert "No alert" not in story.tell()


def test_a_resumed_run_tells_of_what_fires_since_before():
    story = AlertStory()
    story.note_watched([300], [alert()])
    assert "critical: dead_units" in html.unescape(story.tell())


def test_where_all_is_well_it_is_told_ever_more_rarely():
    story, at = AlertStory(), []
    for step in range(0, 1000, 5):
        story.note_watched([step], ())
        if story.is_due:
            at.append(step)
            story.tell()
    assert at == [0, 5, 20, 80, 320]
    assert story.is_stale
    story.tell()
    assert not story.is_stale


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "`x`",
        "a\nb",
        "![](http://e/x)",
        "[x](http://e)",
        "<img src=http://e>",
        "<script>",
        "\\|",
        "# x",
        "- x",
        "1. x",
        "    x",
    ],
)
@pytest.mark.parametrize("field", ["kind", "message", "layers", "evidence", "could_be", "remedy"])
def test_no_text_of_an_alert_becomes_markup(field, text):
    value = {"layers": (text,), "could_be": (text,), "evidence": {text: text}}.get(field, text)
    shown = markdown_to_safe_html(told(alert(**{field: value})))
    assert (shown.count("<h4>"), shown.count("<p>"), shown.count("<li>")) == (1, 1, 5)
    assert not any(
        element in shown
        for element in ("<img", "<a ", "<script", "<code", "<em", "<br", "<h1", "<ol", "<pre")
    )
