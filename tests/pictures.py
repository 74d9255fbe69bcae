"""What the tests of the pictures share: can a figure be read, and what did it draw where."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from p2mfast.types import EXTENT_DTYPE


def boxes_of_text(figure: Figure) -> list[tuple[str, Bbox, Text]]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [
        (text.get_text(), text.get_window_extent(canvas.get_renderer()), text)
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip()
    ]


def apart(one: Bbox, other: Bbox, slack: float = 0.5) -> bool:
    return (
        one.x1 <= other.x0 + slack
        or other.x1 <= one.x0 + slack
        or one.y1 <= other.y0 + slack
        or other.y1 <= one.y0 + slack
    )


def assert_legible(figure: Figure) -> None:
    """At 100 dots an inch, 800 across: no text beyond the edge, upon another, or upon data."""
    assert figure.dpi * figure.get_figwidth() == 800
    texts = boxes_of_text(figure)
    for words, box, _ in texts:
        assert min(box.x0, box.y0) >= 0, words
        assert box.x1 <= figure.bbox.x1, words
        assert box.y1 <= figure.bbox.y1, words
    for (words, box, _), (others, other, _) in itertools.combinations(texts, 2):
        assert apart(box, other), (words, others)
    for axes in figure.axes:
        inside = set(axes.texts)
        for words, box, text in texts:
            assert text in inside or apart(box, axes.bbox), words
        for legend in figure.legends:
            assert apart(legend.get_window_extent(), axes.bbox)
    for one, other in itertools.combinations(figure.axes, 2):
        assert apart(one.bbox, other.bbox)
    assert min(text.get_fontsize() for _, _, text in texts) >= 7


def words_of(figure: Figure) -> str:
    return "\n".join(words for words, _, _ in boxes_of_text(figure))


def labelled(figure: Figure, label: str) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() == label]


def meshes(axes: Axes) -> list[QuadMesh]:
    return [artist for artist in axes.collections if isinstance(artist, QuadMesh)]


def extents(*rows: tuple[int, int], type: int = 1, level: int = 3) -> np.ndarray:
    table = np.zeros(len(rows), EXTENT_DTYPE)
    table["gfn"], table["nr"] = zip(*rows, strict=True)
    table["attrs"], table["level"] = type << 55, level
    table["valid"] = table["reachable"] = True
    return table
