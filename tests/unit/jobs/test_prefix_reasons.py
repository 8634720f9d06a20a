"""Where shared prefixes would not be exact, that is told, and rows are computed by themselves."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from tests.support.prefixes import CPU, model, nested_prompts, ragged, sampled

from stepforge.contracts.work import Lora, RlvrWork, SrlWork
from stepforge_jobs.prefixes.reasons import dropout_of, why_not
from stepforge_jobs.training.models import Policy, with_lora
from stepforge_jobs.training.sharing import EMPTY, Sharing


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (partial(model, "mistral", sliding_window=16), r"slides over a window|kinds \['sliding_attention'\]"),
        (partial(model, "mixtral", output_router_logits=True, num_local_experts=2), "auxiliary loss of its router"),
        (partial(model, attn_implementation="eager"), "its attention is 'eager', and this needs 'sdpa'"),
        (
            partial(model, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "frequencies depend on the longest row",
        ),
        # Before training: scores and logits are so small that neither costs anything yet.
        (partial(model, "nanochat", initializer_range=0.02), "log-probabilities would differ"),
        (partial(model, "doge", initializer_range=0.02), "a mask of its own"),
    ],
    ids=["window", "router", "eager", "rope", "cap", "mask"],
)
def test_what_does_not_fit_is_told_and_computed_row_by_row(network: Any, reason: str) -> None:
    made, said = network(), []
    sharing = Sharing(wanted=True, say=said.append)
    rows = ragged(2)
    sharing.logps(made, *rows, temperature=1.0, device=CPU)
    logps = sharing.logps(made, *rows, temperature=1.0, device=CPU)
    plain = Sharing(wanted=False).logps(made, *rows, temperature=1.0, device=CPU)
    assert all(torch.equal(one, other) for one, other in zip(logps, plain, strict=True))
    (line,) = said
    assert line.startswith("prefixes are not shared: ")
    assert re.search(reason, line), line
    choice = sharing.choice("sampling", "the gradient")
    assert choice.endswith(f"else row by row: {sharing.reasons[0]}"), "nothing is said to be shared that was not"


def test_state_space_layers_and_images_are_told() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=23, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert "keep a state in place of attention" in str(why_not(mamba))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seeing = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": 40, **small},
        vision_config={"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **small},
        image_token_index=39,
    )
    assert "reads images" in str(why_not(LlavaForConditionalGeneration(seeing)))


def test_rotary_frequencies_of_each_kind_of_layer_and_attention_to_both_sides_are_told() -> None:
    moving = model()
    moving.config.rope_parameters = {"full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    assert "frequencies depend on the longest row" in str(why_not(moving))
    both = model(initializer_range=0.001)
    for layer in both.model.layers:
        layer.self_attn.is_causal = False
    assert "is not causal" in str(why_not(both))


def test_a_network_whose_logits_are_changed_after_its_head_is_found_by_the_check() -> None:
    network = model()
    network.register_forward_hook(lambda _module, _given, out: setattr(out, "logits", out.logits * 2) or out)
    assert "log-probabilities would differ by" in str(why_not(network))
    assert network.config._attn_implementation == "sdpa"


def test_dropout_goes_row_by_row_while_it_falls_and_is_shared_where_it_does_not() -> None:
    network, rows = model(attention_dropout=0.1), ragged(2)
    sharing = Sharing(wanted=True)
    list(sharing.parts(network, *rows, temperature=1.0, device=CPU))
    assert sharing.reasons == ["dropout 0.1 of config.attention_dropout falls on each row apart"]
    sharing.logps(network, *rows, temperature=1.0, device=CPU)
    assert sharing.choice("the reference").startswith("tokens that rollouts share are computed once in the reference; ")
    network.eval()
    assert dropout_of(network) is None
    jitter = model("mixtral", router_jitter_noise=0.1, num_local_experts=2, sliding_window=None)
    assert str(dropout_of(jitter)).startswith("dropout 0.1 of config.router_jitter_noise")
    nothing: Any = None
    adapted = with_lora(Policy(model(), nothing, 256), Lora(dropout=0.05), seed=0).network.train()
    assert dropout_of(adapted) == "dropout 0.05 of a layer falls on each row apart"
    for module in adapted.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    assert dropout_of(adapted) is None, "none falls where the layers of dropout alone are switched off"


def test_completions_without_a_token_are_told() -> None:
    sharing = Sharing(wanted=True)
    for part in sharing.parts(model(), [[3, 4]], [[]], temperature=1.0, device=CPU):
        assert not part.mask_BT.any()
    assert sharing.reasons == [EMPTY]
    sharing = Sharing(wanted=True)
    assert not list(sharing.parts(model(), [], [], temperature=1.0, device=CPU))
    assert sharing.reasons == [], "a batch without a group that teaches is no exception"


def test_the_switch_is_recorded_and_its_default_leaves_identities_alone() -> None:
    assert "share_prefixes" not in SrlWork().model_dump_json()
    assert SrlWork(share_prefixes=False).model_dump()["share_prefixes"] is False
    assert RlvrWork.model_validate_json(RlvrWork(share_prefixes=False).model_dump_json()).share_prefixes is False
    assert Sharing(wanted=False).choice("the gradient") == "row by row: share_prefixes is false"


def test_layers_that_do_not_pass_the_plan_on_are_told_also_where_they_did_before() -> None:
    def without(_layer: Any, given: Any, named: dict[str, Any]) -> Any:
        return given, {name: value for name, value in named.items() if name != "prefix_plan"}

    networks = model(), model()
    sampled(networks[1], nested_prompts(), max_new_tokens=1)
    for network in networks:
        for layer in network.model.layers:
            layer.register_forward_pre_hook(without, with_kwargs=True)
    assert "LlamaForCausalLM have not passed the plan on to their attention" in str(why_not(networks[0]))
    with pytest.raises(RuntimeError, match="have not passed the plan on"):
        sampled(networks[1], nested_prompts(), max_new_tokens=1)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_log_probabilities_have_no_gradient_and_leave_the_network_in_its_mode(training: bool) -> None:
    network = model().train(training)
    assert not any(
        row.requires_grad for row in Sharing(wanted=True).logps(network, *ragged(2), temperature=1.0, device=CPU)
    )
    assert network.training == training
