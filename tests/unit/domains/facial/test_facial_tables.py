"""The tables say what their sources say."""

from __future__ import annotations

from stepforge.contracts.domains.facial import EMOTIONS
from stepforge_jobs.domains.facial.tables import ACTION_UNITS, ANTAGONISTS, COMPOUNDS, PROTOTYPES, RIG_TABLES


def test_the_rigs_have_the_52_names_of_arkit_and_the_70_of_openxr():
    arkit, openxr = RIG_TABLES["arkit"], RIG_TABLES["openxr"]
    assert (len(arkit.names), len(set(arkit.names))) == (52, 52)
    assert (len(openxr.names), len(set(openxr.names))) == (70, 70)
    # Values of the enum XrFaceExpression2FB.
    places = {
        "BROW_LOWERER_L": 0,
        "JAW_DROP": 24,
        "LIP_CORNER_PULLER_L": 32,
        "LIPS_TOWARD": 50,
        "UPPER_LIP_RAISER_R": 62,
    }
    assert {name: openxr.names.index(name) for name in places} == places
    assert openxr.names[-1] == "TONGUE_RETREAT"
    assert arkit.names[0] == "eyeBlinkLeft"
    assert arkit.names[-1] == "tongueOut"


def test_each_action_unit_moves_a_shape_that_its_rig_has_on_both_sides_or_on_the_right():
    for table in RIG_TABLES.values():
        assert set(table.shapes) == set(ACTION_UNITS)
        for unit, word in table.shapes.items():
            full = table.blendshapes(word)
            assert set(full) <= set(table.names)
            if unit.startswith("R"):
                assert full == (word,)
                assert word.endswith(table.sides[1])
            else:
                assert len(full) == 2 or word in (
                    "browInnerUp",
                    "jawOpen",
                    "JAW_DROP",
                    "mouthShrugLower",
                    "CHIN_RAISER_B",
                )
        for word in (table.blink, table.wide, table.jaw, table.lips_closed):
            assert table.blendshapes(word)
        assert table.blendshapes("noSuchShape") == ()


def test_no_prototype_and_no_published_core_contradicts_itself():
    sets = [frozenset(units) for units in PROTOTYPES.values()] + [row.core for row in COMPOUNDS.values()]
    assert not [(pair, units) for units in sets for pair in ANTAGONISTS if pair <= units]


def test_tables_cover_every_emotion_and_name_known_units_alone():
    assert set(PROTOTYPES) == set(EMOTIONS)
    named = {unit for units in PROTOTYPES.values() for unit in units}
    named |= {unit for row in COMPOUNDS.values() for unit in row.core | row.also}
    assert named <= set(ACTION_UNITS)
