"""Aggregation rules: how the counted updates of a round become the next model, one column of bytes at a time."""

from director.domain.aggregation.parts import column_bytes, fold_part
from director.domain.aggregation.rules import RULES, Rule, rule

__all__ = ["RULES", "Rule", "column_bytes", "fold_part", "rule"]
