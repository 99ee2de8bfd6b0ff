"""What every public call of the models refuses; the rows stand by section of the course."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl_lessons import models
from tests.models import (
    refusals_balancing,
    refusals_continual,
    refusals_federated,
    refusals_meta,
    refusals_reinforcement,
    refusals_transfer,
)
from tests.support.refusals import ask, by_chance, junk_for, missing, refusals, refused

CALLS = [
    *refusals_transfer.CALLS,
    *refusals_meta.CALLS,
    *refusals_reinforcement.CALLS,
    *refusals_continual.CALLS,
    *refusals_balancing.CALLS,
    *refusals_federated.CALLS,
]


@pytest.mark.parametrize(("call", "argument"), refusals(CALLS))
def test_a_wrong_argument_is_refused_by_its_name(call, argument):
    refused(call, argument)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
@by_chance
@given(data=st.data())
def test_whatever_comes_is_answered_or_refused(call, data):
    ask(call, *data.draw(junk_for(call)))


def test_every_public_call_has_a_row():
    assert missing(models, CALLS) == set()
