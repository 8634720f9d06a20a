"""Structured problems and solutions of the domains that ship with stepforge."""
