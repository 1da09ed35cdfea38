"""Settings: every field explains itself and refuses what lies outside its range."""

import dataclasses
import math
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.config import (
    METRICS,
    PRESETS,
    RUN_CONFIGS,
    ModelConfig,
    PolicyConfig,
    PretrainConfig,
    RewardConfig,
    SamplingConfig,
    SFTConfig,
    permitted_range,
    settings_from_dict,
    settings_hash,
    settings_to_dict,
)
from rlhf_core.errors import ConfigError
from rlhf_core.options import inner_type

ALL = [ModelConfig, PretrainConfig, SFTConfig, SamplingConfig, RewardConfig, PolicyConfig]
FIELDS = [(kind, field) for kind in ALL for field in dataclasses.fields(kind)]
OPEN_FIELDS = [  # those of named choices have their own test
    (kind, field) for kind, field in FIELDS if not get_args(inner_type(get_type_hints(kind)[field.name]))
]


def name_of(case: object) -> str | None:
    return getattr(case, "__name__", None) or getattr(case, "name", None)


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=name_of)
def test_every_field_has_help_a_range_and_a_permitted_default(kind, field):
    assert len(field.metadata["help"]) >= 5
    hint = inner_type(get_type_hints(kind)[field.name])
    if hint in (int, float):
        assert field.metadata["minimum"] is not None or field.metadata["above"] is not None
        assert field.metadata["maximum"] is not None
    assert getattr(kind(), field.name) == field.default


def test_only_runs_that_spread_their_weights_offer_to():
    fields_of = {kind: {field.name for field in dataclasses.fields(one)} for kind, one in RUN_CONFIGS.items()}
    offering = {kind for kind, names in fields_of.items() if "fsdp" in names}
    assert offering == {"pretrain", "sft"}  # as docs/algorithms/several-processes.md says


@pytest.mark.parametrize("digits", [30, 400, 4000])
def test_a_whole_number_too_large_for_a_float_is_refused_like_any_other(digits):
    for kind, name in ((RewardConfig, "epochs"), (RewardConfig, "learning_rate"), (PolicyConfig, "kl_target")):
        for number in (10**digits, -(10**digits)):
            with pytest.raises(ConfigError) as refused:
                kind(**{name: number})
            assert refused.value.field == name


def outside(field: dataclasses.Field, hint: type) -> list[object]:
    """Values just outside the range, and of wrong types."""
    found: list[object] = ["many", [1], math.nan, math.inf] if hint in (int, float) else ["maybe", 2]
    low, above, high = (field.metadata[name] for name in ("minimum", "above", "maximum"))
    if hint is int:
        found += [low - 1, high + 1, 1.5, True]
    elif hint is float:
        found += [math.nextafter(low, -math.inf) if low is not None else above, math.nextafter(high, math.inf)]
    return found


@pytest.mark.parametrize(("kind", "field"), OPEN_FIELDS, ids=name_of)
def test_a_value_outside_the_range_is_refused_with_field_value_and_range(kind, field):
    hint = inner_type(get_type_hints(kind)[field.name])
    for value in outside(field, hint):
        with pytest.raises(ConfigError) as caught:
            kind(**{field.name: value})
        assert caught.value.field == field.name
        assert repr(value) in str(caught.value)
        assert caught.value.permitted


NEEDED_BESIDE = {"value_loss_coefficient": {"critic_trunk": "policy"}}  # where a setting means something


def test_the_borders_themselves_are_permitted():
    for kind, field in FIELDS:
        for border in ("minimum", "maximum"):
            value = field.metadata[border]
            if value is not None and field.name != "dim_head":
                hint = inner_type(get_type_hints(kind)[field.name])
                kind(**{field.name: hint(value)}, **NEEDED_BESIDE.get(field.name, {}))


def test_an_odd_head_width_is_refused():
    with pytest.raises(ConfigError, match="dim_head = 33"):
        ModelConfig(dim_head=33)


@pytest.mark.parametrize("kind", [PretrainConfig, SFTConfig])
def test_a_schedule_of_another_name_is_refused_with_those_there_are(kind):
    with pytest.raises(ConfigError, match="schedule = 'linear' is not permitted: one of wsd, cosine"):
        kind(schedule="linear")


def test_ranges_read_as_words():
    assert permitted_range({"minimum": 1, "above": None, "maximum": 10}) == "at least 1 and at most 10"
    assert permitted_range({"minimum": None, "above": 0, "maximum": None}) == "above 0"
    assert permitted_range({"minimum": None, "above": None, "maximum": None}) == "a finite number"


def test_a_whole_number_is_a_permitted_float_and_nothing_may_stand_for_an_optional():
    assert PolicyConfig(learning_rate=1).learning_rate == 1
    assert PolicyConfig(kl_target=None).kl_target is None
    with pytest.raises(ConfigError, match="learning_rate = None"):
        PolicyConfig(learning_rate=None)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="learning_rat") as caught:
        settings_from_dict(RewardConfig, {"learning_rat": 1e-3})
    assert "learning_rate" in caught.value.permitted


@given(st.builds(SamplingConfig, temperature=st.floats(0.01, 10), top_k=st.integers(0, 100), top_p=st.floats(0.01, 1)))
def test_settings_survive_a_round_trip_and_keep_their_hash(settings):
    again = settings_from_dict(SamplingConfig, settings_to_dict(settings))
    assert again == settings
    assert settings_hash(again) == settings_hash(settings)


def test_the_hash_follows_every_value():
    assert settings_hash(RewardConfig()) != settings_hash(RewardConfig(seed=1))


def test_settings_cannot_be_changed_after_they_were_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RewardConfig().epochs = 0  # type: ignore[misc]


def test_presets_fit_their_kind():
    for kind, presets in PRESETS.items():
        assert all(type(settings) is RUN_CONFIGS[kind] for settings in presets.values())


def test_every_kind_of_run_explains_its_metrics():
    assert set(METRICS) == set(RUN_CONFIGS)
    rule_48 = {"score", "kl", "k3", "kl_coefficient", "entropy", "response_length", "end_rate", "ratio_min"}
    rule_48 |= {"ratio_max", "clip_fraction", "value_clip_fraction", "explained_variance", "actor_grad_norm"}
    rule_48 |= {"critic_grad_norm", "distinct_2", "tokens_per_second"}
    assert rule_48 <= set(METRICS["policy"])
    for metrics in METRICS.values():
        assert all(len(help_text) > 10 and isinstance(unit, str) for help_text, unit in metrics.values())
