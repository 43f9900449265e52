"""What is wrong with a data set before training: copies, wrong labels, outliers, bad pictures, classes too alike."""

from pipeline.audit.audit import Report, audit
from pipeline.audit.finding import COLUMNS, KINDS, Finding
from pipeline.audit.writing import check_folder, tables, write_report

__all__ = ["COLUMNS", "KINDS", "Finding", "Report", "audit", "check_folder", "tables", "write_report"]
