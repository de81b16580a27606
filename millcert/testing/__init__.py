"""Placeholder docstring; the module follows."""
