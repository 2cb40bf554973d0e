"""Rows of tables as HTML: everything escaped, links and exact amounts where they belong, hidden columns left out."""

from farthing.insight.table import Column, Table
from farthing.server.pages.blocks import TableBlock
from farthing.server.pages.drawing import cells

COLUMNS = (
    Column(name="team", title="team"),
    Column(name="hidden", title="hidden"),
    Column(name="note", title="note", unknown="–"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
)
ROWS = (
    ('<b>"a"</b>', "secret", "x" * 21, 1_234_567_890),
    ("y" * 25, "secret", "z" * 61, None),
    ("", "secret", None, 0),
)


def test_a_row_is_escaped_linked_and_says_exact_amounts():
    table = Table(title="t", columns=COLUMNS, rows=ROWS)
    block = TableBlock(id="t", table=table, links={"team": ('/x?a="&b', "", "/y")}, hide=("hidden",))
    first, second, third = (str(cells(block, at)).split("\n") for at in range(3))
    assert first == [
        '<th scope="row" class="text"><a href="/x?a=&#34;&amp;b">&lt;b&gt;&#34;a&#34;&lt;/b&gt;</a></th>',
        f'<td class="text mid">{"x" * 21}</td>',
        '<td class="usd" title="$1.23456789">$1.23</td>',
    ]
    assert second[0] == f'<th scope="row" class="text wordy">{"y" * 25}</th>'
    assert second[1:] == [f'<td class="text long">{"z" * 61}</td>', '<td class="usd">unpriced</td>']
    assert third[0] == '<th scope="row" class="text"><a href="/y">(none)</a></th>'
    assert third[1] == '<td class="text">–</td>'
    assert "secret" not in "".join(first + second + third)
