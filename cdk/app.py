"""`cdk deploy stepforge-dev`: needs aws-cdk@2.1148.1 (npm's `latest` is another thing) and the extra [cdk].

Synth needs no account, network, credentials or working directory. It fails on any finding of cdk-nag that
`acknowledged.py` does not name.
"""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
import cdk_nag

from cdk.acknowledged import acknowledge
from cdk.settings import SETTINGS, EnvironmentName
from cdk.stack import Stepforge

# Here and not in cdk.json, so that the tests and the local template see the same.
_FLAGS = {"@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True, "@aws-cdk/aws-iam:minimizePolicies": True}


def build(*names: EnvironmentName, outdir: str | None = None) -> cdk.App:
    """An app with the stacks `stepforge-{name}`; `app.synth()` checks and writes them to `outdir`."""
    app = cdk.App(tree_metadata=False, analytics_reporting=False, outdir=outdir, context=_FLAGS)
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks())
    for name in names:
        # The local AWS has no bootstrap stack, and its template is committed without the check for one.
        synthesizer = cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=name != "local")
        acknowledge(Stepforge(app, SETTINGS[name], synthesizer=synthesizer), SETTINGS[name])
    return app


def template(app: cdk.App, name: EnvironmentName) -> dict[str, Any]:
    """The synthesised template. Raises RuntimeError with the findings where cdk-nag objects."""
    return app.synth().get_stack_by_name(f"stepforge-{name}").template


if __name__ == "__main__":
    build("dev").synth()
