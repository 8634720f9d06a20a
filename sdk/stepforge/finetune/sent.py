"""Which of our settings each provider is sent. What is not sent is refused.

A setting is part of what a launch is known by: one that changed the launch and not the request would pay a second time
for the same tune.
"""

from __future__ import annotations

from stepforge.errors import InvalidInput
from stepforge.finetune.spec import Hyperparameters, Method, ProviderName, TuneSpec

_OPENAI = ("epochs", "batch_size", "learning_rate_multiplier", "seed", "suffix")
_GEMINI = ("epochs", "learning_rate_multiplier", "adapter_size", "suffix")
SENT: dict[tuple[ProviderName, Method], tuple[str, ...]] = {
    ("openai", "sft"): _OPENAI,
    ("openai", "dpo"): (*_OPENAI, "beta"),
    ("openai", "rft"): _OPENAI,
    ("vertex", "sft"): (*_GEMINI, "batch_size"),
    ("vertex", "dpo"): (*_GEMINI, "beta"),
    ("vertex", "rft"): (*_GEMINI, "batch_size", "samples_per_prompt"),
    ("vertex", "distillation"): _GEMINI,
    ("vertex", "prompt"): ("suffix",),
    ("bedrock", "sft"): ("epochs", "batch_size", "suffix"),
    ("bedrock", "rft"): ("epochs", "batch_size", "samples_per_prompt", "suffix"),
    ("bedrock", "distillation"): ("suffix",),
    ("sagemaker", "sft"): ("epochs", "batch_size"),
    ("sagemaker", "dpo"): ("epochs", "batch_size"),
    ("sagemaker", "rft"): ("epochs", "batch_size"),
    ("anthropic", "prompt"): (),
}
"""Fields of `Hyperparameters`, and `suffix`. Vertex distils Gemini so; open models: `OPEN_STUDENT`."""
MOST_EPOCHS: dict[tuple[ProviderName, Method], int] = {("bedrock", "sft"): 5}
OPEN_STUDENT = ("epochs", "batch_size", "suffix")


def check_sent(spec: TuneSpec, sent: tuple[str, ...] | None = None) -> None:
    """Raises InvalidInput naming what `spec` sets and its provider is not sent; `sent` in the place of the table's."""
    taken = SENT[spec.provider, spec.method] if sent is None else sent
    unset = Hyperparameters()
    given = [name for name in type(unset).model_fields if getattr(spec.hyperparameters, name) != getattr(unset, name)]
    if spec.suffix != TuneSpec.model_fields["suffix"].default:
        given.append("suffix")
    if other := [name for name in given if name not in taken]:
        raise InvalidInput(
            f"{spec.provider}/{spec.method} of {spec.base_model!r} takes {', '.join(taken) or 'no such setting'}: "
            f"leave {', '.join(other)} out, which would not be sent. What was launched with it is the same tune: "
            "`stepforge finetune list` has its key"
        )
