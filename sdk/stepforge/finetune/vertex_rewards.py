"""Graders as rewards of Vertex's reinforcement tuning."""

from __future__ import annotations

from typing import Any

from stepforge.errors import InvalidInput
from stepforge.finetune.spec import Grader, HttpGrader, PythonGrader, ScoreModel, StringCheck


def reward_config(grader: Grader) -> dict[str, Any]:
    """A reward of google.genai.types.SingleReinforcementTuningRewardConfig, between -1 and 1.

    Raises InvalidInput for a grader that Vertex has not.
    """
    reference = "{{references.reference_answer}}"
    if isinstance(grader, StringCheck):
        operations = {"eq": "EXACT_MATCH", "like": "PARTIAL_MATCH"}
        if grader.operation not in operations:
            raise InvalidInput(f"string_check {grader.operation!r} is not offered by Vertex: use 'eq' or 'like'")
        expression = {"match_operation": operations[grader.operation], "expression": reference}
        scorer = {"correct_answer_reward": 1.0, "wrong_answer_reward": 0.0, "string_match_expression": expression}
        return {"reward_name": "reference", "string_match_reward_scorer": scorer}
    if isinstance(grader, PythonGrader):
        glue = (
            "\n\ndef evaluate(example, response):\n"
            "    text = ''.join(part.get('text', '') for part in response.get('parts', []))\n"
            "    item = dict(example.get('references', {}))\n"
            "    item.setdefault('messages', [\n"
            "        {'role': turn.get('role', 'user'), 'content': turn.get('parts', [])}\n"
            "        for turn in example.get('contents', [])\n"
            "    ])\n"
            "    return float(grade({'output_text': text}, item))\n"
        )
        return {
            "reward_name": "verifier",
            "code_execution_reward_scorer": {"python_code_snippet": grader.source + glue},
        }
    if isinstance(grader, HttpGrader):
        return {"reward_name": "verifier", "cloud_run_reward_scorer": {"cloud_run_uri": grader.uri}}
    if isinstance(grader, ScoreModel):
        scorer = {
            "autorater_prompt": grader.prompt.replace("{{sample.output_text}}", "{{response}}").replace(
                "{{item.reference_answer}}", reference
            ),
            "autorater_config": {"autorater_model": grader.model},
            "parsed_response_conversion_scorer": {},
        }
        return {"reward_name": "judge", "autorater_scorer": scorer}
    raise InvalidInput(f"grader {grader.type!r} is not offered by Vertex: use string_check, python, score_model, http")
