"""The CDK app: what stepforge needs in an AWS account, and in the local AWS. Imports `stepforge.contracts` only."""

import os

# Before jsii and the CLI start: they warn at length, at each call, of versions of Node.js that they work with.
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "18,20")
os.environ.setdefault("JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION", "1")
os.environ.setdefault("JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION", "1")
os.environ.setdefault("AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED", "true")
