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
        order_min=0,  # there are no halves of messages
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
    _drop_what_needs_scripts(svg)
    del svg.attrib["id"]
    svg.set("aria-hidden", "true")  # the table beside it says the same
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704  # ElementTree has escaped it


def _drop_what_needs_scripts(svg: Element) -> None:
    """The page's policy forbids scripts and styles in a chart."""
    for parent in list(svg.iter()):
        for child in list(parent):
            is_overlay = "overlay" in child.get("class", "")
            if is_overlay or child.tag in {"defs", "title", "desc"}:
                parent.remove(child)
