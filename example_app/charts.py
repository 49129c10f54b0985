"""Charts as SVG: drawn here, coloured by the page's stylesheet, which knows dark and light."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element
from xml.etree.ElementTree import tostring

import pygal
from markupsafe import Markup


def stacked_bars(
    labels: Sequence[str], series: Sequence[Sequence[int]], *, every: int = 1
) -> Markup:
    """A chart of stacked bars; the stylesheet knows the series as ``color-0``, ``color-1``...

    :param labels: one for each bar.
    :param series: the heights of the bars, the lowest part first.
    :param every: which labels are written: each sixth, say.
    """
    chart = pygal.StackedBar(
        width=640,
        height=240,
        margin=4,
        margin_left=44,
        margin_top=12,
        margin_bottom=30,
        spacing=4,
        max_scale=5,
        show_legend=False,
        x_labels_major_every=every,
        show_minor_x_labels=False,
        truncate_label=-1,
        formatter="{:,.0f}".format,
        no_data_text="",
    )
    chart.x_labels = labels
    for heights in series:
        chart.add("", heights)
    svg = chart.render_tree()
    _keep(svg, "graph")
    _keep(svg[0], "plot")
    for bar in svg.iter("g"):
        if bar.get("class") == "bar":
            _keep(bar, "rect")
    del svg.attrib["id"]
    svg.set("aria-hidden", "true")  # the table beside it says the same
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704  # ElementTree has escaped it


def _keep(parent: Element, kind: str) -> None:
    """Drop what is of no use without scripts, or forbidden by the page's policy: inline styles."""
    for child in list(parent):
        kinds = child.get("class", "").split()
        if kind not in kinds or ("plot" in kinds and len(kinds) > 1):
            parent.remove(child)
