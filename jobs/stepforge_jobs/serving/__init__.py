"""The endpoint: `python -m stepforge_jobs.serving`."""
