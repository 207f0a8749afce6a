# SPDX-License-Identifier: MIT
"""Experiment definition -> testbed -> load -> raw results -> table -> figure beside the paper."""

__version__ = "0.1.0"
