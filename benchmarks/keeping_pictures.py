"""Pictures of the experiment on forgetting: domain against general, as SVG files in English and Chinese."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from keeping_table import BASE, KEPT, LOST, NONE, Cell, Result, results

from thinktune.eval.statistics import Interval
from thinktune.files import atomic_write_text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 460, 64, 24, 24, 56
LANGUAGES = ("en", "zh")
COLOURS = (
    "#111827",
    "#dc2626",
    "#2563eb",
    "#059669",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#65a30d",
    "#78716c",
    "#a16207",
)
WORDS = {
    "base": ("base", "基座模型"), "none": ("no cure", "不处理"), "replay": ("replay 10 %", "回放 10 %"),
    "self-replay": ("self-replay 10 %", "自回放 10 %"), "averaging": ("averaging", "权重平均"), "dft": ("dft", "dft"),
    "together": ("all together", "全部一起"), "replay-30": ("replay 30 %", "回放 30 %"),
    "replay-30-wide": ("replay 30 %, of more rows", "回放 30 %，更多数据"),
    "replay-50-wide": ("replay 50 %, of more rows", "回放 50 %，更多数据"),
    "replay-70-wide": ("replay 70 %, of more rows", "回放 70 %，更多数据"),
    "low-rate": ("a quarter of the rate", "学习率降到四分之一"),
    "low-rate-replay": ("a quarter of the rate, replay 10 %", "学习率降到四分之一，回放 10 %"),
    "domain": ("domain questions right, %", "领域题答对，%"),
    "general": ("general questions right, %", "通用题答对，%"), "works": ("a cure that works", "有效的区域"),
    "seed": ("seed {}", "种子 {}"),
}  # fmt: skip


def draw_pictures(cells: Sequence[Cell], folder: Path) -> None:
    """Draw the conditions, and the curves of averaging, into a folder: `keeping-….LANGUAGE.svg`."""
    found = results(cells)
    averaged = found["averaging"].cells if "averaging" in found else ()
    for place, language in enumerate(LANGUAGES):
        names = [WORDS[name][place] for name in found]
        parts = [*_target(found[BASE], found[NONE], place), *_legend(names)]
        for one, colour in zip(found.values(), COLOURS, strict=False):
            parts += _cross(one.figure("domain"), one.figure("general"), colour)
        atomic_write_text(folder / f"keeping-cures.{language}.svg", _svg(parts, place))
        parts = _legend([WORDS["seed"][place].format(cell.seed) for cell in averaged])
        for cell, colour in zip(averaged, COLOURS, strict=False):
            parts += _curve(cell, colour)
        atomic_write_text(folder / f"keeping-curve.{language}.svg", _svg(parts, place))


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _target(base: Result, none: Result, place: int) -> list[str]:
    """Shade where a cure works: nine tenths of the general figure, a tenth of the domain's gain lost at most."""
    before, after = base.figure("domain").value, none.figure("domain").value
    left, low = after - LOST * (after - before), KEPT * base.figure("general").value
    size = f'width="{_x(1) - _x(left):.1f}" height="{_y(low) - _y(1):.1f}"'
    word = f'<text x="{_x(1) - 6}" y="{_y(1) + 16}" text-anchor="end" class="quiet">{WORDS["works"][place]}</text>'
    return [f'<rect x="{_x(left)}" y="{_y(1)}" {size} fill="#bbf7d0" opacity="0.5"/>', word]


def _legend(names: Sequence[str]) -> list[str]:
    """Name the colours where no figure is likely to be: low in both."""
    parts: list[str] = []
    for number, name in enumerate(names):
        y = _y(0.68) + 19 * number
        parts.append(f'<circle cx="{_x(0.08)}" cy="{y - 5}" r="5" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{_x(0.08) + 12}" y="{y}">{escape(name)}</text>')
    return parts


def _cross(domain: Interval, general: Interval, colour: str) -> list[str]:
    """Draw a point with its two intervals."""
    x, y = _x(domain.value), _y(general.value)
    line = f'stroke="{colour}" stroke-width="1.5"'
    return [
        f'<line x1="{_x(domain.low)}" x2="{_x(domain.high)}" y1="{y}" y2="{y}" {line}/>',
        f'<line x1="{x}" x2="{x}" y1="{_y(general.low)}" y2="{_y(general.high)}" {line}/>',
        f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>',
    ]


def _curve(cell: Cell, colour: str) -> list[str]:
    """Draw one seed's way from base to tuned, with each weight; the chosen one has a ring."""
    ways = " ".join(f"{_x(domain)},{_y(general)}" for _, domain, general in cell.curve)
    parts = [f'<polyline points="{ways}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for weight, domain, general in cell.curve:
        x, y = _x(domain), _y(general)
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        if weight == cell.weight:
            parts.append(f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="{colour}" stroke-width="2"/>')
        if cell.seed == 1:  # those of the others are near
            parts.append(f'<text x="{x + 8}" y="{y - 7}" class="quiet">{weight:g}</text>')
    return parts


def _svg(parts: Sequence[str], place: int) -> str:
    """Put parts into a frame with both axes from 0 to 100 %."""
    axes: list[str] = []
    for tick in range(0, 101, 20):
        x, y = _x(tick / 100), _y(tick / 100)
        axes.append(f'<line x1="{_x(0)}" x2="{_x(1)}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>')
        axes.append(f'<line x1="{x}" x2="{x}" y1="{_y(0)}" y2="{_y(1)}" stroke="#e5e7eb"/>')
        axes.append(f'<text x="{x}" y="{_y(0) + 18}" text-anchor="middle" class="quiet">{tick}</text>')
        axes.append(f'<text x="{_x(0) - 8}" y="{y + 4}" text-anchor="end" class="quiet">{tick}</text>')
    middle = fmean((_y(0), _y(1)))
    axes += [
        f'<text x="{fmean((_x(0), _x(1)))}" y="{HEIGHT - 14}" text-anchor="middle">{WORDS["domain"][place]}</text>',
        f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{WORDS["general"][place]}</text>',
    ]
    style = "<style>text{font:14px sans-serif;fill:#111827}.quiet{font-size:12px;fill:#6b7280}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join((head, style, ground, *axes, *parts, "</svg>")) + "\n"
