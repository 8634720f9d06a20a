"""The CDK app: what stepforge needs in an AWS account, and in the local AWS. Imports `stepforge.contracts` only."""
