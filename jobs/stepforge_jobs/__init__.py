"""What runs in the containers: jobs that read a spec and write an artifact with its manifest.

Imports `stepforge.contracts` and pure helpers of `stepforge`; never its client, jobs, pipelines or local parts.
"""
