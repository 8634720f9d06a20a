"""What crosses a boundary between SDK, jobs, handlers and machines.

Only the standard library and pydantic are imported here. Everything else may import it.
"""
