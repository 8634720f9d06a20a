"""What an environment may cost in a month. At the limit, new jobs and endpoints are denied until a person lifts it.

Denied to the roles of the stacks: the machine's, the promotions', the paid tunes', those of Studio's trainers. What is
live may still be updated: nothing new is promoted without a candidate, and a promotion that is under way must be able
to go back. The roles that people sign in with elsewhere are not ours to change, so a trainer with one still creates
jobs by hand, within `limits`.

Spending is known hours late, and only what carries the tag `stepforge:environment` counts: activate it once as a cost
allocation tag (docs/deploy.md). The estimate that is refused before a submission does not wait for the bill.
"""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk.policies import allow
from cdk.settings import Settings
from stepforge.contracts.names import ENVIRONMENT_TAG

SPENDING = ("sagemaker:CreateTrainingJob", "sagemaker:CreateProcessingJob", "sagemaker:CreateTransformJob",
            "sagemaker:CreateEndpoint", "sagemaker:CreateApp", "bedrock:CreateModelCustomizationJob")  # fmt: skip


class Budgets(Construct):
    """`held`: the roles that are denied what costs money, once the limit is reached."""

    def __init__(self, scope: Construct, settings: Settings, *, topic: sns.ITopic, held: Sequence[iam.IRole]) -> None:
        super().__init__(scope, "Budgets")
        told = [budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=topic.topic_arn)]
        budget = budgets.CfnBudget(
            self,
            "Monthly",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=f"stepforge-{settings.name}",
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=settings.budget.monthly_usd, unit="USD"),
                cost_filters={"TagKeyValue": [f"user:{ENVIRONMENT_TAG}${settings.name}"]},
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=_above(percent, kind), subscribers=told
                )
                for percent, kind in (
                    (settings.budget.warn_percent, "ACTUAL"), (100, "ACTUAL"), (100, "FORECASTED")
                )
            ],
        )  # fmt: skip
        deny = iam.ManagedPolicy(
            self,
            "NoSpending",
            managed_policy_name=f"stepforge-{settings.name}-no-spending",
            description="Attached by the budget when its limit is reached",
            statements=[iam.PolicyStatement(effect=iam.Effect.DENY, actions=list(SPENDING), resources=["*"])],
        )
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal(
                "budgets.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}},
            ),
        )
        role.add_to_policy(
            allow(
                ["iam:AttachRolePolicy", "iam:DetachRolePolicy"],
                [one.role_arn for one in held],
                ArnEquals={"iam:PolicyARN": deny.managed_policy_arn},
            )
        )
        action = budgets.CfnBudgetsAction(
            self,
            "Hold",
            action_type="APPLY_IAM_POLICY",
            action_threshold=budgets.CfnBudgetsAction.ActionThresholdProperty(type="PERCENTAGE", value=100),
            approval_model="AUTOMATIC",
            budget_name=budget.ref,
            definition=budgets.CfnBudgetsAction.DefinitionProperty(
                iam_action_definition=budgets.CfnBudgetsAction.IamActionDefinitionProperty(
                    policy_arn=deny.managed_policy_arn, roles=[one.role_name for one in held]
                )
            ),
            execution_role_arn=role.role_arn,
            notification_type="ACTUAL",
            subscribers=[budgets.CfnBudgetsAction.SubscriberProperty(type="SNS", address=topic.topic_arn)],
        )
        action.node.add_dependency(role)


def _above(percent: float, kind: str) -> budgets.CfnBudget.NotificationProperty:
    return budgets.CfnBudget.NotificationProperty(
        comparison_operator="GREATER_THAN", notification_type=kind, threshold=percent, threshold_type="PERCENTAGE"
    )
