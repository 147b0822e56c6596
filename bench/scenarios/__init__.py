"""The scenarios of ``make switches``."""
