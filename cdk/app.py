"""`python -m cdk.cli deploy --all -c env=dev`: needs Node.js and the extra [cdk].

Synth needs no account, network, credentials or working directory; the wheels of the handlers' layer are fetched once
(`python -m cdk.layers`). It fails on any finding of cdk-nag or of our own rules that `acknowledged.py` does not name.
An environment's stacks stand in the app itself and not in a cdk.Stage: `--all` does not look into stages.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import aws_cdk as cdk
import cdk_nag

from cdk.account import STACK as ACCOUNT
from cdk.acknowledged import acknowledge, acknowledge_account
from cdk.rules import StepforgeChecks
from cdk.settings import Settings, settings
from cdk.stack import compose
from stepforge.contracts.environment import on_this_machine
from stepforge.errors import StepforgeError

DEFAULT = "dev"
# Here and not in cdk.json, so that the tests and the local template see the same.
_FLAGS = {
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/aws-iam:minimizePolicies": True,
    # A stack's region is known, and with it the partition (aws, aws-cn, aws-us-gov): ARNs are texts that can be read.
    "@aws-cdk/core:enablePartitionLiterals": True,
    # What another stack uses cannot be taken away from below it.
    "@aws-cdk/core:defaultCrossStackReferences": "strong",
}


def build(*names: str, outdir: str | None = None) -> cdk.App:
    """An app with the stacks of these environments; `app.synth()` checks and writes them to `outdir`.

    No names: the environment of the context value `env`, which is `dev` where there is none.
    """
    app = cdk.App(
        tree_metadata=False,
        analytics_reporting=False,
        outdir=outdir,
        context=_FLAGS,
        # It only warns, of less than cfn-lint finds in the same templates in tests, and takes half of a synth's time.
        builtin_cloud_formation_validation=False,
    )
    validations = cdk.Validations.of(app)
    validations.add_plugins(cdk_nag.AwsSolutionsChecks())
    validations.add_plugins(StepforgeChecks())
    for name in names or (str(app.node.try_get_context("env") or DEFAULT),):
        # The local AWS has no bootstrap stack, and its template is committed without the check for one.
        synthesizer = cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=False) if name == "local" else None
        options = {"synthesizer": synthesizer} if synthesizer else {}
        found = placed(settings(name))
        for stack in compose(app, found, **options):
            acknowledge(stack, found)
    account = app.node.try_find_child(ACCOUNT)
    if isinstance(account, cdk.Stack):
        acknowledge_account(account)
    return app


def placed(found: Settings) -> Settings:
    """On the local AWS, without the account and region of the file: it is one account, in one region."""
    if found.local or not on_this_machine(os.environ):
        return found
    region = os.environ.get("AWS_REGION", found.region)
    network = found.network and found.network.model_copy(update={"zones": ()})
    return found.model_copy(update={"account": None, "region": region, "network": network})


def templates(app: cdk.App) -> dict[str, dict[str, Any]]:
    """Stack to template. Raises RuntimeError with the findings where a rule objects."""
    return {stack.stack_name: stack.template for stack in app.synth().stacks}


if __name__ == "__main__":
    try:
        build().synth()
    except StepforgeError as error:
        sys.exit(f"error: {error}")
