"""The state of an engine survives a file."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.eviction import Evicted

times = st.floats(0, 1e12)
ids = st.integers(0, 50)
unfinished = st.builds(Unfinished, ids, st.booleans(), ids)
states = st.builds(
    EngineState,
    now_s=times,
    merges=ids,
    unfinished=st.dictionaries(ids, st.lists(unfinished, min_size=1, max_size=3).map(tuple), max_size=3),
    dropped=st.frozensets(ids, max_size=3),
    last_visit_s=st.dictionaries(ids, times, max_size=3),
    evicted=st.dictionaries(ids, st.builds(Evicted, ids, ids), max_size=3),
)


def test_a_state_as_plain_values():
    tasks = {2: (Unfinished(0, True, 2), Unfinished(1, False))}
    state = EngineState(1.5, 3, tasks, frozenset({4, 1}), {0: 0.1}, {2: Evicted(3, at_training=1)})
    assert state.plain() == {
        "now_s": 1.5,
        "merges": 3,
        "unfinished": [[2, [[0, True, 2], [1, False, 0]]]],
        "dropped": [1, 4],
        "last_visit_s": [[0, 0.1]],
        "evicted": [[2, 3, 1]],
    }


@settings(deadline=None)
@given(states)
def test_a_state_is_the_same_after_a_file(state: EngineState):
    assert EngineState.of_plain(json.loads(json.dumps(state.plain()))) == state
