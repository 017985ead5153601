"""One self-contained HTML page: words, tables and plots, with nothing fetched from anywhere.

The page's content security policy forbids the browser every fetch, so that it stays true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

FONTS: Final = (
    'system-ui,-apple-system,"Segoe UI","Noto Sans","Noto Sans KR","Noto Sans CJK KR",'
    '"Apple SD Gothic Neo","Malgun Gothic",sans-serif'
)
"""What machines in Korea and elsewhere have; a font of our own would have to be fetched."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure, what it shows with its unit, and one sentence that says what is seen."""

    title: str
    figure: go.Figure
    sentence: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page; `html` is already escaped."""

    title: str
    html: str


def page(title: str, subtitle: str, sections: Iterable[Section], footer: str) -> str:
    """The whole page; the texts are escaped here."""
    parts = list(sections)
    contents = "".join(
        f'<a href="#s{place}">{text(part.title)}</a>' for place, part in enumerate(parts)
    )
    body = "".join(
        f'<section id="s{place}"><h2>{text(part.title)}</h2>{part.html}</section>'
        for place, part in enumerate(parts)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><main>"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p><nav>{contents}</nav></header>"
        f"{body}<footer>{text(footer)}</footer></main><script>{_SCRIPT}</script></body></html>\n"
    )


def text(plain: str) -> str:
    """Plain text as HTML. A number and its unit stay on one line."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", escape(plain))


def says(sentences: Iterable[str]) -> str:
    """A paragraph a sentence; nothing for none."""
    return "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)


def plots(shown: Iterable[Plot | None]) -> str:
    """Plots one below the other; None, a plot without anything to show, is left out."""
    return "".join(_plot(one) for one in shown if one is not None)


def _plot(plot: Plot) -> str:
    drawn = plot.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=re.sub(r"\W+", "-", plot.title.lower()),
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
    return (
        f"<figure><h3>{text(plot.title)}</h3>{drawn}"
        f"<figcaption>{text(plot.sentence)}</figcaption></figure>"
    )


def cards(cells: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: what, how much, and a remark below."""
    made = "".join(
        f"<div><span>{text(what)}</span><b>{text(value)}</b><small>{text(remark)}</small></div>"
        for what, value, remark in cells
    )
    return f'<div class="cards">{made}</div>'


def answers(rows: Iterable[tuple[str, str]]) -> str:
    """Questions and their answers; an answer is HTML, of `says` or `table`."""
    made = "".join(f"<dt>{text(question)}</dt><dd>{answer}</dd>" for question, answer in rows)
    return f"<dl>{made}</dl>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column holds names, the others figures."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{made}</div>'


_UNIT: Final = re.compile(r"(?<=\d) (?=\S)")

_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

_STYLE: Final = (
    f"body{{font-family:{FONTS}}}"
    """
:root{--ink:#1f2933;--soft:#5b6672;--line:#dfe3e8;--paper:#fbfbfa;--card:#ffffff;--accent:#2f6f8f}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b1;--line:#323a43;--paper:#14181c;
--card:#1c2127;--accent:#7fb7d1}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.55}
main{max-width:1120px;margin:0 auto;padding:48px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em}
header p{margin:0 0 20px;color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;padding:10px 0;border-top:1px solid var(--line);
border-bottom:1px solid var(--line);font-size:14px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
h2{font-size:21px;margin:44px 0 14px;letter-spacing:-.005em}
h3{font-size:15px;margin:0 0 2px;font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));
gap:12px;margin:0 0 18px}
.cards div,figure,dl,.wide{background:var(--card);border:1px solid var(--line);border-radius:8px}
.cards div{padding:14px 16px;display:flex;flex-direction:column}
.cards span{font-size:13px;color:var(--soft)}
.cards b{font-size:21px;white-space:nowrap;
font-weight:600;line-height:1.35;font-variant-numeric:tabular-nums}
.cards small{font-size:12.5px;color:var(--soft)}
figure{margin:0 0 18px;padding:18px 20px 16px}
figcaption{color:var(--soft);font-size:14px;border-top:1px solid var(--line);padding-top:10px}
dl{margin:0;padding:6px 20px 16px}
dt{font-weight:600;font-size:15px;margin-top:14px}
dd{margin:4px 0 0}
p{margin:4px 0}
dd .wide{margin:8px 0 4px}
.wide{overflow-x:auto;margin-bottom:18px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 11px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);font-size:13px}
tbody tr:last-child td{border-bottom:0}
th:first-child,td:first-child{text-align:left}
.wide+p{color:var(--soft);font-size:14px}
footer{margin-top:40px;color:var(--soft);font-size:12.5px;overflow-wrap:anywhere}
@media print{figure,tr,dd{break-inside:avoid}nav{display:none}}
"""
)

_SCRIPT: Final = """
const dark = matchMedia('(prefers-color-scheme: dark)');
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue('--ink').trim();
  const card = style.getPropertyValue('--card').trim();
  for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    Plotly.relayout(plot, {'font.color': ink, 'hoverlabel.bgcolor': card});
  }
}
dark.addEventListener('change', paint);
paint();
"""
