"""Names of metrics. A training job writes them to metrics.jsonl, one object a line with `step`."""

from __future__ import annotations

from enum import StrEnum


class Metric(StrEnum):
    LOSS = "loss"
    REWARD = "reward"
    REWARD_STD = "reward_std"
    ZERO_SPREAD = "zero_spread"
    """Share of groups whose rewards are all equal: they carry no signal."""
    KEPT_GROUPS = "kept_groups"
    """With dynamic sampling: share of all groups sampled in this step that it learns from."""
    SAMPLING_ROUNDS = "sampling_rounds"
    BATCH_GROUPS = "batch_groups"
    """With dynamic sampling: groups that this step learns from; fewer than `batch_prompts` where rounds ran out."""
    FORMAT_FAILURES = "format_failures"
    """Share of rollouts without anything to judge: not ended, without the thoughts asked for, or unreadable."""
    SIMILARITY = "similarity"
    """Mean over the steps whose format holds."""
    ACCEPTED = "accepted"
    PARTIAL = "partial"
    GRADED = "graded"
    """Mean of the verdicts' own reward, hard rules x soft ones, whichever of the three is trained on."""
    HARD_RULES = "hard_rules"
    """Share of hard rules that hold, over the completions that could be read."""
    UNREADABLE = "unreadable"
    """The part of them that ended and that the verifier refused unread, with a reason."""
    VERIFIER_FAILURES = "verifier_failures"
    """The part of these on which the verifier itself hung, ended or raised."""
    HELD_OUT_ACCEPTED = "held_out_accepted"
    """Accepted share of sampled completions of problems that this stage never trains on."""
    HELD_OUT_ACCEPTED_CHANGE = "held_out_accepted_change"
    """Less that of the stage's initial policy on the same problems and seeds; so with the changes below."""
    HELD_OUT_ACCEPTED_ERROR = "held_out_accepted_error"
    """Standard error of that change over problems."""
    TRAINED_REWARD_CHANGE = "trained_reward_change"
    """Of the reward on problems that the stage trains on."""
    TRAINED_REWARD_ERROR = "trained_reward_error"
    LENGTH_RATIO = "length_ratio"
    """Mean tokens of the completions over those of the stage's initial policy."""
    REPETITION = "repetition"
    """Mean share of a completion's 4-token sequences that it has had before."""
    REPETITION_CHANGE = "repetition_change"
    HACKING_SIGNS = "hacking_signs"
    """How many of the signs in contracts/hacking.py were seen at this checkpoint."""
    KL = "kl"
    """Exact, in nats a token, to the stage's initial policy on fixed prompts."""
    KL_K3 = "kl_k3"
    """Estimate on the batch, where a penalty is on."""
    VALIDATION = "validation"
    """Mean verifier reward of greedy completions of held-out problems, at checkpoints, where the best one is kept."""
    KL_AVERAGE = "kl_average"
    """Moving average of small probes, which steers beta."""
    KL_REFUSED = "kl_refused"
    """Exact KL of weights that an evaluation found over the cap; `kl` is then that of the weights that stay."""
    KL_HARD = "kl_hard"
    """Exact, in nats a token, on problems that the base fails."""
    KL_HARD_COMPLETION = "kl_hard_completion"
    """The same in nats a completion: success needs at least `kl_hard_bound` of it."""
    KL_HARD_BOUND = "kl_hard_bound"
    """ln(1 / p_base), from completions of the stage's initial policy on the same problems."""
    BETA = "beta"
    """Weight of the KL penalty in this step, where it is steered."""
    CLIPPED = "clipped"
    """Share of tokens whose ratio left its range, in the last update on a batch."""
    ENTROPY = "entropy"
    SAMPLER_KL = "sampler_kl"
    """Of vLLM from the network that learns, in nats a token: the estimate k3 on the rollouts that the step learns from;
    so with the three below. Where rollouts come from our own sampler there is none."""
    IMPORTANCE = "importance"
    """Mean of p of the network / p of vLLM, before the cap: 1 but for noise where the rollouts are as vLLM says."""
    IMPORTANCE_LARGEST = "importance_largest"
    IMPORTANCE_CAPPED = "importance_capped"
    """Share of tokens whose weight the cap cut."""
    VALUE_LOSS = "value_loss"
    """PPO's, mean over the batch's tokens."""
    EXPLAINED = "value_explained"
    """Share of the returns' variance that PPO's values explain before the step."""
    PAIRS = "pairs"
    """Of a verified and a refused rollout, in DPO's batch."""
    MARGIN = "margin"
    """Mean over DPO's pairs of beta x the difference of their log-ratios."""
    GRADIENT_NORM = "gradient_norm"
    COMPLETION_TOKENS = "completion_tokens"
    LEARNING_RATE = "learning_rate"
    SECONDS = "seconds"
    """Of the whole step, with a checkpoint's probes."""
    RENEWAL_SECONDS = "renewal_seconds"
    """Of handing the weights to vLLM, with its start in the first step; where rollouts come from it."""
    SAMPLING_SECONDS = "sampling_seconds"
    REWARD_SECONDS = "reward_seconds"
    REFERENCE_SECONDS = "reference_seconds"
    """Log-probabilities of the reference and of the policy that sampled, and a held KL's own measurements."""
    FORWARD_SECONDS = "forward_seconds"
    BACKWARD_SECONDS = "backward_seconds"
    OPTIMISER_SECONDS = "optimiser_seconds"
    FLOP_SHARE = "flop_share"
    """Of the forward and backward passes: what their operations would take at the speed of the device's own matrix
    product, over what they took; tokens that rows share count once."""
    TOKEN_RATIO = "token_ratio"
    """Tokens of the rollouts with a prompt each over those that the network read for their gradient."""


PHASES = (
    Metric.RENEWAL_SECONDS,
    Metric.SAMPLING_SECONDS,
    Metric.REWARD_SECONDS,
    Metric.REFERENCE_SECONDS,
    Metric.FORWARD_SECONDS,
    Metric.BACKWARD_SECONDS,
    Metric.OPTIMISER_SECONDS,
)
"""Parts of a step's seconds; what is left is checkpoints, probes and the loop."""
MEASURED = frozenset({*PHASES, Metric.SECONDS, Metric.FLOP_SHARE})
"""What a clock says: all other metrics are the same whenever the same work runs again."""


SHOWN = (Metric.LOSS, Metric.REWARD, Metric.ACCEPTED, Metric.KL, Metric.ENTROPY)
"""In the log's progress lines, where SageMaker reads them for CloudWatch and Studio."""
PROGRESS_EVENT = "progress"
"""The `event` of these lines."""
TOKENS_PER_SECOND = "tokens_per_second"
"""Beside them: completion tokens that this process learnt from, over the whole step."""


class Count(StrEnum):
    """What jobs and endpoints add to CloudWatch and Prometheus (stepforge.logs.metrics)."""

    JOBS_ENDED = "jobs_ended"
    """Attempts at jobs that were booked."""
    BILLABLE_SECONDS = "billable_seconds"
    """Of an attempt, on each of its instances."""
    COST_USD = "cost_usd"
    REQUESTS = "requests"
    REQUEST_SECONDS = "request_seconds"
    RECORDS = "records"
    """Prompts of requests that were read."""
