"""A face to look at: still at its apex and moving, with a caption and the rules that refused it. No script."""

from __future__ import annotations

import hashlib
from html import escape

from stepforge.contracts.domains.facial import FacialArtifact, FacialScenario
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.domains.facial.checks import timing
from stepforge_jobs.domains.facial.drawing import HEIGHT, NEUTRAL, WIDTH, Stroke, draw, weights_of
from stepforge_jobs.domains.facial.tables import ACTION_UNITS

RIG_TITLES = {"arkit": "ARKit", "openxr": "OpenXR (XR_FB_face_tracking2)"}
PAUSE = 24
"""Frames of neutral face before the animation starts again."""


def page_fragment(scenario: FacialScenario, artifact: FacialArtifact, verdict: Verdict, completion: str) -> str:
    """A self-contained HTML fragment of two faces and a caption. Ids in it are unique to scenario and completion."""
    key = "f" + hashlib.sha256(f"{scenario.model_dump_json()}{completion}".encode()).hexdigest()[:10]
    caption = _caption(scenario, artifact, verdict)
    return (
        '<figure style="margin:0;display:inline-block;vertical-align:top;max-width:680px;padding:14px;background:#fff;'
        'border:1px solid #d9dde2;border-radius:10px;font:14px/1.45 system-ui,sans-serif;color:#22262b">'
        f'<div style="display:flex;gap:10px;flex-wrap:wrap">{still(artifact, key)}{moving(artifact, key)}</div>'
        f'<figcaption style="margin-top:10px">{caption}</figcaption></figure>'
    )


def still(artifact: FacialArtifact, key: str) -> str:
    """The face at its apex as SVG."""
    return _svg([_element(stroke, f"{key}s") for stroke in draw(weights_of(artifact))], "The face at its apex")


def moving(artifact: FacialArtifact, key: str) -> str:
    """The face from neutral to apex and back as SVG, looping."""
    onset, apex, offset = timing(artifact)
    frames = [0, onset, onset + apex, onset + apex + offset, onset + apex + offset + PAUSE]
    total = frames[-1]
    times = ";".join(f"{frame / total:.4f}" for frame in frames)
    pairs = zip(draw(NEUTRAL), draw(weights_of(artifact)), strict=True)
    elements = [_element(rest, f"{key}m", peak, times, total / artifact.fps) for rest, peak in pairs]
    return _svg(elements, "The face as it moves")


def _svg(elements: list[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" style="background:#eef2f4;border-radius:8px"><title>{title}</title>{"".join(elements)}</svg>'
    )


def _element(rest: Stroke, key: str, peak: Stroke | None = None, times: str = "", seconds: float = 0.0) -> str:
    motion = ""
    if peak is not None:
        for attribute, low, high in (("d", rest.d, peak.d), ("opacity", f"{rest.opacity:g}", f"{peak.opacity:g}")):
            if low != high:
                values = ";".join((low, high, high, low, low))
                clock = f'dur="{seconds:.3f}s" repeatCount="indefinite" keyTimes="{times}"'
                motion += f'<animate attributeName="{attribute}" {clock} values="{values}"/>'
    clip = f' clip-path="url(#{key}{rest.clip})"' if rest.clip else ""
    ink = ""
    if rest.width:
        ink = f' stroke="{rest.stroke}" stroke-width="{rest.width:g}" stroke-linecap="round" stroke-linejoin="round"'
    path = f'<path d="{rest.d}" fill="{rest.fill}" opacity="{rest.opacity:g}"{ink}{clip}>{motion}</path>'
    if rest.clips:
        path = f'<clipPath id="{key}{rest.clips}"><path d="{rest.d}">{motion}</path></clipPath>{path}'
    return path


def asked_for(scenario: FacialScenario) -> str:
    """The scenario in English."""
    emotions = f"{scenario.primary} with {scenario.secondary}" if scenario.secondary else scenario.primary
    how = f"level {scenario.level} of 5, {scenario.display}, {scenario.pace}"
    return f"{emotions.capitalize()}, {how}, on {RIG_TITLES[scenario.rig]}"


def _caption(scenario: FacialScenario, artifact: FacialArtifact, verdict: Verdict) -> str:
    parts = [f"<b>{escape(asked_for(scenario))}</b>"]
    units = (f"{code} {ACTION_UNITS.get(code, 'unknown')} <b>{g}</b>" for code, g in artifact.action_units.items())
    parts.append(f"Action units: {', '.join(units) or 'none could be read'}")
    spans = zip(("onset", "apex", "offset"), timing(artifact), strict=True)
    moves = " + ".join(f"{what} {frames / artifact.fps:.2f} s" for what, frames in spans)
    parts.append(f"{moves}; {len(artifact.curves)} blendshapes; body {artifact.body.posture}, {artifact.body.tempo}")
    if verdict.accepted:
        notes = "; ".join(result.message for result in verdict.rules if result.score < 1)
        said = f'<span style="color:#1a7f37">Accepted, reward {verdict.reward:.2f}</span>'
        parts.append(f"{said} ({escape(notes)})" if notes else said)
        return "<br/>".join(parts)
    refused = [f"{result.rule}: {result.message}" for result in verdict.rules if result.hard and result.score < 1]
    items = "".join(f"<li>{escape(reason)}</li>" for reason in ([verdict.reason] if verdict.reason else refused))
    listing = f'<ul style="margin:2px 0 0;padding-left:18px">{items}</ul>'
    parts.append(f'<span style="color:#c62828">Refused{listing}</span>')
    return "<br/>".join(parts)
