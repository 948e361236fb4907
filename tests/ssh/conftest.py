"""Fixtures of the tests that measure the sandbox from outside: the sandbox's own."""

from tests.sandbox.conftest import commands, nothing_left, pytest_configure, pytest_terminal_summary

__all__ = ["commands", "nothing_left", "pytest_configure", "pytest_terminal_summary"]
