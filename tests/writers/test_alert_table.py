import html

import pytest
from tests.writers.reading import markdown_to_safe_html
from tests.writers.stand_ins import alert

from vis_callbacks.writers.alert_table import alert_table

NUM_COLUMNS = 9


def test_an_alert_is_one_row_with_all_that_it_says():
    (row,) = alert_table([alert()]).splitlines()[2:]
    shown = html.unescape(markdown_to_safe_html(alert_table([alert()])))
    for text in (
        "300",
        "critical",
        "dead_units",
        "60 of 64 units never fire (since step 250)",
        "net.2, net.4",
        "share = 0.9375, samples = 160",
        "a schedule that falls",
        "restart with lr 0.01 instead of 0.1",
    ):
        assert f">{text}<" in shown
    assert row.count("|") == NUM_COLUMNS + 1


def test_the_newest_alert_stands_first():
    rows = alert_table([alert(step=1), alert(step=2)]).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["2", "1"]


def test_a_resolved_alert_says_so():
    assert "| resolved |" in alert_table([alert(state="resolved")])


def test_many_layers_and_many_alerts_are_counted():
    layers = tuple(f"layer{i}" for i in range(20))
    table = alert_table([alert(layers=layers)] * 150)
    lines = table.splitlines()
    assert "and 12 more" in lines[2]
    assert len(lines) == 2 + 100 + 2
    assert lines[-1] == "and 50 earlier ones, in alerts.jsonl"


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
    ],
)
@pytest.mark.parametrize("field", ["kind", "message", "layers", "evidence", "could_be", "remedy"])
def test_no_text_of_an_alert_becomes_markup(field, text):
    value = {"layers": (text,), "could_be": (text,), "evidence": {text: text}}.get(field, text)
    shown = markdown_to_safe_html(alert_table([alert(**{field: value})]))
    assert shown.count("<td>") == NUM_COLUMNS
    assert not any(
        element in shown for element in ("<img", "<a ", "<script", "<code", "<em", "<br")
    )
