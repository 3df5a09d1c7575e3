from tests.fake_run import HOSTILE

from demur.core.rates import Rate
from demur.pages.page import escape_markdown, render_html, render_markdown
from demur.pages.parts import Code, Estimate, Figure, Page, Panel, Section, Table
from demur.store.results.metrics_file import MeasuredRate

CELLS = (
    "words",
    MeasuredRate.from_core(Rate(hits=3, of=10)),
    Estimate(value=0.5, low=0.25, high=0.75),
)


def page_with(*parts):
    section = Section(key="one", title=f"One {HOSTILE}", parts=parts, text=(HOSTILE,))
    return Page(made_by="demur test", title="Title", headline="Headline", sections=(section,))


def table(*rows):
    return Table(title="Numbers", header=("name", "rate", "estimate"), rows=rows)


def test_hostile_text_is_one_line_of_markdown_without_markup():
    assert escape_markdown(HOSTILE) == (
        r"Is this \</script\>\<img src=x onerror=alert(1)\> \| \`safe\`? \# \<b\>{{ 7\*7 }}\</b\>"
    )


def test_a_page_says_which_command_made_it_and_escapes_what_it_is_given():
    page = render_html(page_with(table(("heading",), CELLS)))
    assert '<p class="soft">demur test</p>' in page
    assert "<img" not in page
    assert "{{ 7*7 }}" in page
    assert "30.0% <small>6.7&ndash;65.2</small>" in page
    assert "0.500 <small>0.250&ndash;0.750</small>" in page


def test_markdown_has_the_numbers_of_a_figure_and_the_lines_of_code():
    spec = {"data": [], "layout": {}}
    figure = Figure(
        title="Plot",
        caption="Read it so.",
        panels=(Panel(label="a", spec=spec),),
        numbers=table(CELLS),
    )
    text = render_markdown(page_with(figure, Code(title="Run", caption="", lines=("demur demo",))))
    assert "| words | 30.0% (6.7 to 65.2) | 0.500 (0.250 to 0.750) |" in text
    assert "```\ndemur demo\n```" in text


def test_a_plot_cannot_end_the_script_that_carries_it():
    spec = {"data": [{"name": "</script><script>alert(1)</script>"}], "layout": {}}
    figure = Figure(
        title="Plot", caption="", panels=(Panel(label="a", spec=spec),), numbers=table(CELLS)
    )
    assert "</script><script>alert(1)" not in render_html(page_with(figure))
