import numpy as np
import pytest
import torch

from oneranker.training.batches import BatchSampler, BatchSettings
from oneranker.training.preparation import Prepared

SETTINGS = BatchSettings(windows=6, positions=3, targets=3, ranked=2)


@pytest.fixture
def sampler(prepared: Prepared) -> BatchSampler:
    return BatchSampler(prepared.streams, prepared.config, SETTINGS, items=len(prepared.catalogue.ids), until=0, seed=3)


def requests_of(sampler: BatchSampler, batch: object) -> list[int]:
    """Which request of the streams each row is: found again by its window's tokens and position."""
    streams, found = sampler.streams, []
    per = SETTINGS.positions
    for row, position in enumerate(batch.position.tolist()):  # type: ignore[attr-defined]
        window = row // per
        kind = batch.token_kind[window].numpy()  # type: ignore[attr-defined]
        time = int(batch.token_time[window, position - 1])  # type: ignore[attr-defined]
        assert kind[position - 1] == 3, "a request reads up to its own context token"
        fields = batch.token_fields[window, position - 1].numpy()  # type: ignore[attr-defined]
        matches = [
            q
            for q in range(len(streams.request_token))
            if streams.request_time[q] == time
            and (streams.token_fields[streams.request_token[q]] == fields).all()
            and (
                streams.window(q, sampler.config.max_history)[0][-2] == batch.token_fields[window, position - 2].numpy()
            ).all()  # type: ignore[attr-defined]
        ]
        assert matches
        found.append(matches[0])
    return found


def test_batch_depends_on_seed_and_number_alone(sampler: BatchSampler, prepared: Prepared) -> None:
    again = BatchSampler(
        prepared.streams, prepared.config, SETTINGS, items=len(prepared.catalogue.ids), until=0, seed=3
    )
    sampler.batch(0)
    first, second = sampler.batch(5), again.batch(5)
    for name in first.__dataclass_fields__:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert not torch.equal(first.target_items, sampler.batch(6).target_items)


def test_only_requests_before_the_split_are_asked_and_their_targets_are_theirs(sampler: BatchSampler) -> None:
    streams = sampler.streams
    for number in range(4):
        batch = sampler.batch(number)
        for row, request in enumerate(requests_of(sampler, batch)):
            assert streams.request_split[request] == 0
            bought = set(streams.target_item[streams.targets(request)].tolist())
            for head in (0, -1):  # the stage head and the value head ask for this request's items
                weight = batch.target_weight[row, head]
                assert set(batch.target_items[row, head][weight > 0].tolist()) <= bought
            later = batch.target_items[row, 1][batch.target_weight[row, 1] > 0].tolist()
            assert set(later) <= set(streams.target_item[streams.targets(request + 1)].tolist())


def test_ranked_requests_bring_all_that_was_bought_and_its_value(sampler: BatchSampler) -> None:
    streams, batch = sampler.streams, sampler.batch(0)
    requests = requests_of(sampler, batch)
    assert len(batch.ranked) == SETTINGS.windows * SETTINGS.ranked
    for row, at in enumerate(batch.ranked.tolist()):
        lines = streams.targets(requests[at])
        bought = zip(streams.target_item[lines].tolist(), streams.target_value[lines].tolist(), strict=True)
        found = zip(batch.bought_items[row].tolist(), batch.bought_value[row].tolist(), strict=True)
        assert sorted(pair for pair in found if pair[0] >= 0) == sorted(pair for pair in bought if pair[0] >= 0)


def test_every_second_ranked_request_may_retrieve_nothing_the_user_had(sampler: BatchSampler) -> None:
    streams, batch = sampler.streams, sampler.batch(1)
    requests = requests_of(sampler, batch)
    eligible = np.diff(batch.item_eligible.numpy(), axis=1) > 0
    for row, at in enumerate(batch.ranked.tolist()):
        request = requests[at]
        had = set()
        for earlier in range(request):
            if streams.request_user[earlier] == streams.request_user[request]:
                had |= set(streams.target_item[streams.targets(earlier)].tolist())
        wanted = [row % 2 == 0 or item not in had for item in range(sampler.items)]
        assert eligible[row].tolist() == wanted
