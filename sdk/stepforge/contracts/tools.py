"""Versions of tools that are no Python packages: the CDK app and `stepforge doctor` speak of the same."""

from __future__ import annotations

CDK_CLI = "aws-cdk@2.1148.1"
"""The CDK's command line on npm, whose versions are no longer the library's. Pinned: npm's `latest` is a release that
does not work with this library, and CI must deploy with what was tried before."""
VLLM_PYTHON = "STEPFORGE_VLLM_PYTHON"
"""Environment variable: the Python of an environment that has vLLM, where that is not the job's own."""
