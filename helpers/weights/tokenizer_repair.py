"""Placeholder merged from the other branch."""
