"""Reports: tables for the terminal, and one self-contained HTML page with pictures and JSON beside it."""

from .analysis import analysis_sections
from .evaluation import comparison_sections, evaluation_sections
from .page import Example, Section, render_page, write_report
from .pictures import Picture, embed
from .table import Column, Table, text_of


__all__ = [
    "Column",
    "Example",
    "Picture",
    "Section",
    "Table",
    "analysis_sections",
    "comparison_sections",
    "embed",
    "evaluation_sections",
    "render_page",
    "text_of",
    "write_report",
]
